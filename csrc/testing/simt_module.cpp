// `_simt`: the CUDA kernels on the host, one function per op, over numpy arrays (float32, or uint16 holding
// bfloat16). Each takes `threads` (block size; 0 is what the CUDA launcher would take) and `order` (the seed
// of the schedule). Outputs start as NaN.
#include "broken_kernels.cuh"
#include "cuda/dropout_add_norm.cuh"
#include "cuda/next_thought.cuh"
#include "cuda/next_token.cuh"
#include "cuda/prefix_decode_attention.cuh"
#include "cuda/score_and_prune.cuh"
#include "simt_arrays.h"
#include "simt_rollout.h"

namespace latent_ext {
namespace {

py::tuple dropout_add_norm(Array branch, Array residual, Maybe weight, Maybe bias, Int64s keys,
                           Int64s positions, int64_t seed, uint32_t site, double p, float eps,
                           const std::string& norm, int threads, uint64_t order) {
  const unsigned rows = branch.shape(0);
  Array residual_out = poisoned(branch.dtype(), {branch.shape(0), branch.shape(1)});
  Array normed = poisoned(branch.dtype(), {branch.shape(0), branch.shape(1)});
  for_storage_type(branch, [&](auto storage) {
    using T = decltype(storage);
    DropoutAddNormArguments<T> a{};
    a.branch = in<T>(branch);
    a.residual = in<T>(residual);
    a.weight = in<T>(weight);
    a.bias = in<T>(bias);
    a.keys = keys.data();
    a.positions = positions.data();
    a.seed = &seed;
    a.residual_out = out<T>(residual_out);
    a.normed = out<T>(normed);
    a.hidden = static_cast<int>(branch.shape(1));
    a.site = site;
    a.dropout = make_dropout(p);
    a.eps = eps;
    a.norm = norm_kind(norm);
    a.wide = can_read_packs<T>(a.hidden, {a.branch, a.residual, a.weight, a.bias, a.residual_out, a.normed});
    a.row_in_shared = dropout_add_norm_row_fits<T>(a.hidden);
    simt::launch({rows}, threads ? threads : row_block_threads<T>(a.hidden),
                 dropout_add_norm_shared_bytes<T>(a.hidden, a.row_in_shared), order,
                 [&] { dropout_add_norm_kernel(a); });
  });
  return py::make_tuple(residual_out, normed);
}

py::tuple next_thought(Array hidden, Maybe weight, Maybe bias, Maybe log_std, Int64s keys, Int64s positions,
                       int64_t seed, float eps, const std::string& norm, float scale, float sigma,
                       bool relative, int64_t step, int64_t steps, int threads, uint64_t order) {
  const unsigned rows = hidden.shape(0);
  Array next_input = poisoned(hidden.dtype(), {hidden.shape(0), hidden.shape(1)});
  Array thoughts = poisoned(hidden.dtype(), {hidden.shape(0), steps, hidden.shape(1)});
  for_storage_type(hidden, [&](auto storage) {
    using T = decltype(storage);
    NextThoughtArguments<T> a{};
    a.hidden = in<T>(hidden);
    a.weight = in<T>(weight);
    a.bias = in<T>(bias);
    a.log_std = in<T>(log_std);
    a.keys = keys.data();
    a.positions = positions.data();
    a.seed = &seed;
    a.next_input = out<T>(next_input);
    a.thoughts = steps > 0 ? out<T>(thoughts) : nullptr;
    a.hidden_size = static_cast<int>(hidden.shape(1));
    a.steps = steps;
    a.step = step;
    a.eps = eps;
    a.scale = scale;
    a.sigma = sigma;
    a.relative = relative;
    a.norm = norm_kind(norm);
    a.wide =
        can_read_packs<T>(a.hidden_size, {a.hidden, a.weight, a.bias, a.log_std, a.next_input, a.thoughts});
    simt::launch({rows}, threads ? threads : row_block_threads<T>(a.hidden_size), kNextThoughtSharedBytes,
                 order, [&] { next_thought_kernel(a); });
  });
  return py::make_tuple(next_input, thoughts);
}

py::tuple score_and_prune(Array hidden, Array weight, Maybe bias, Floats cumulative, Int64s question_offsets,
                          int64_t keep, int threads, uint64_t order) {
  const py::ssize_t rows = hidden.shape(0), questions = question_offsets.shape(0) - 1;
  Array step_score = poisoned(py::dtype::of<float>(), {rows}),
        total = poisoned(py::dtype::of<float>(), {rows});
  Array survivors = poisoned(py::dtype::of<int64_t>(), {questions, keep});
  std::memset(survivors.mutable_data(), 0x7F, survivors.nbytes());  // -1 is a valid value here
  for_storage_type(hidden, [&](auto storage) {
    using T = decltype(storage);
    ScoreAndPruneArguments<T> a{};
    a.hidden = in<T>(hidden);
    a.weight = in<T>(weight);
    a.bias = in<T>(bias);
    a.cumulative = cumulative.data();
    a.question_offsets = question_offsets.data();
    a.step_score = out<float>(step_score);
    a.total = out<float>(total);
    a.survivors = out<int64_t>(survivors);
    a.rows = rows;
    a.keep = keep;
    a.hidden_size = static_cast<int>(hidden.shape(1));
    a.wide = can_read_packs<T>(a.hidden_size, {a.hidden, a.weight});
    simt::launch({unsigned(questions)}, threads ? threads : kScoreAndPruneThreads, 0, order,
                 [&] { score_and_prune_kernel(a); });
  });
  return py::make_tuple(step_score, total, survivors);
}

Array prefix_decode_attention(Array query, Array key, Array value, Array prefix_key, Array prefix_value,
                              Int64s prompt_index, Int64s prompt_len, Array suffix_key, Array suffix_value,
                              Int64s ancestry, Int64s suffix_len, float scale, int threads, uint64_t order) {
  Array result = poisoned(query.dtype(), {query.shape(0), query.shape(1), query.shape(2)});
  for_storage_type(query, [&](auto storage) {
    using T = decltype(storage);
    PrefixDecodeAttentionArguments<T> a{};
    a.query = in<T>(query);
    a.key = in<T>(key);
    a.value = in<T>(value);
    a.prefix_key = in<T>(prefix_key);
    a.prefix_value = in<T>(prefix_value);
    a.prompt_index = prompt_index.data();
    a.prompt_len = prompt_len.data();
    a.suffix_key = out<T>(suffix_key);
    a.suffix_value = out<T>(suffix_value);
    a.ancestry = ancestry.data();
    a.suffix_len = suffix_len.data();
    a.out = out<T>(result);
    a.prompts = prefix_key.shape(0);
    a.max_prompt = prefix_key.shape(2);
    a.slots = suffix_key.shape(0);
    a.max_suffix = suffix_key.shape(2);
    a.heads = static_cast<int>(query.shape(1));
    a.kv_heads = static_cast<int>(key.shape(1));
    a.head_dim = static_cast<int>(query.shape(2));
    a.scale = scale;
    a.wide = can_read_packs<T>(a.head_dim, {a.key, a.prefix_key, a.suffix_key});
    const int group = a.heads / a.kv_heads;
    const dim3 grid{unsigned(query.shape(0)), unsigned(a.kv_heads),
                    unsigned((group + kHeadsPerBlock - 1) / kHeadsPerBlock)};
    simt::launch(grid, threads ? threads : kAttentionThreads,
                 attention_shared_bytes(std::min(group, kHeadsPerBlock), a.head_dim), order,
                 [&] { prefix_decode_attention_kernel(a); });
  });
  return result;
}

py::tuple next_token(Array hidden, Maybe norm_weight, Maybe norm_bias, Array lm_head, Int64s keys,
                     Int64s positions, int64_t seed, float eps, const std::string& norm, float temperature,
                     int rows_per_block, uint64_t order) {
  const py::ssize_t rows = hidden.shape(0),
                    blocks = (lm_head.shape(0) + kVocabularyBlock - 1) / kVocabularyBlock;
  std::vector<TokenChoice> choices(rows * blocks);
  for_storage_type(hidden, [&](auto storage) {
    using T = decltype(storage);
    NextTokenArguments<T> a{};
    a.hidden = in<T>(hidden);
    a.norm_weight = in<T>(norm_weight);
    a.norm_bias = in<T>(norm_bias);
    a.lm_head = in<T>(lm_head);
    a.keys = keys.data();
    a.positions = positions.data();
    a.seed = &seed;
    a.choices = choices.data();
    a.rows = rows;
    a.hidden_size = static_cast<int>(hidden.shape(1));
    a.vocabulary = static_cast<int>(lm_head.shape(0));
    a.rows_per_block = rows_per_block ? rows_per_block : next_token_rows_per_block<T>(a.hidden_size);
    a.eps = eps;
    a.temperature = temperature;
    a.norm = norm_kind(norm);
    a.wide = can_read_packs<T>(a.hidden_size, {a.hidden, a.norm_weight, a.norm_bias, a.lm_head});
    simt::launch({unsigned((rows + a.rows_per_block - 1) / a.rows_per_block), unsigned(blocks)},
                 kTokenThreads, next_token_shared_bytes<T>(a.hidden_size, a.rows_per_block), order,
                 [&] { next_token_block_kernel(a); });
  });
  Array token = poisoned(py::dtype::of<int64_t>(), {rows}),
        logprob = poisoned(py::dtype::of<float>(), {rows});
  const MergeTokenArguments merge{choices.data(), out<int64_t>(token), out<float>(logprob),
                                  static_cast<int>(blocks)};
  simt::launch({unsigned(rows)}, kWarpThreads, 0, order, [&] { merge_token_kernel(merge); });
  return py::make_tuple(token, logprob);
}

Array reverse(Floats values, bool with_barrier, uint64_t order) {
  Array reversed = poisoned(values.dtype(), {values.shape(0)});
  simt::launch({1}, unsigned(values.shape(0)), values.nbytes(), order,
               [&] { reverse_without_barrier_kernel(values.data(), out<float>(reversed), with_barrier); });
  return reversed;
}

Array reverse_blocks(Floats values, unsigned blocks, bool with_wait, uint64_t order) {
  Array middle = poisoned(values.dtype(), {values.shape(0)}),
        reversed = poisoned(values.dtype(), {values.shape(0)});
  simt::launch_cooperative({blocks}, unsigned(values.shape(0)) / blocks, 0, order, [&] {
    reverse_blocks_kernel(values.data(), out<float>(middle), out<float>(reversed), with_wait);
  });
  return reversed;
}

void run_broken(const std::string& name, unsigned threads, uint64_t order) {
  std::vector<float> out(threads);
  const auto run = [&](void (*kernel)(float*)) {
    simt::launch({1}, threads, threads * sizeof(float), order, [&] { kernel(out.data()); });
  };
  if (name == "early_return") return run(early_return_kernel);
  if (name == "two_barriers") return run(two_barriers_kernel);
  if (name == "half_warp_shuffle") return run(half_warp_shuffle_kernel);
  if (name == "narrow_mask") return run(narrow_mask_kernel);
  const auto run_grid = [&](void (*kernel)(float*)) {
    simt::launch_cooperative({3}, threads, 0, order, [&] { kernel(out.data()); });
  };
  if (name == "absent_block") return run_grid(absent_block_kernel);
  if (name == "half_block_waits") return run_grid(half_block_waits_kernel);
  if (name == "past_shared_memory") return run(past_shared_memory_kernel);
  throw py::value_error("no broken kernel is called " + name);
}

}  // namespace

PYBIND11_MODULE(_simt, m) {
  using namespace pybind11::literals;
  m.doc() = "CUDA kernels of latent_ext executed on the host, for tests.";
  m.def("dropout_add_norm", &dropout_add_norm, "branch"_a, "residual"_a, "weight"_a, "bias"_a, "keys"_a,
        "positions"_a, "seed"_a, "site"_a, "p"_a, "eps"_a, "norm"_a, "threads"_a = 0, "order"_a = 0);
  m.def("next_thought", &next_thought, "hidden"_a, "weight"_a, "bias"_a, "log_std"_a, "keys"_a, "positions"_a,
        "seed"_a, "eps"_a, "norm"_a, "scale"_a, "sigma"_a, "relative"_a, "step"_a, "steps"_a, "threads"_a = 0,
        "order"_a = 0, "Returns (next_input, thoughts); thoughts is not written when steps is 0.");
  m.def("prefix_decode_attention", &prefix_decode_attention, "query"_a, "key"_a, "value"_a, "prefix_key"_a,
        "prefix_value"_a, "prompt_index"_a, "prompt_len"_a, "suffix_key"_a, "suffix_value"_a, "ancestry"_a,
        "suffix_len"_a, "scale"_a, "threads"_a = 0, "order"_a = 0,
        "Writes into suffix_key and suffix_value.");
  m.def("score_and_prune", &score_and_prune, "hidden"_a, "weight"_a, "bias"_a, "cumulative"_a,
        "question_offsets"_a, "keep"_a, "threads"_a = 0, "order"_a = 0);
  m.def("next_token", &next_token, "hidden"_a, "norm_weight"_a, "norm_bias"_a, "lm_head"_a, "keys"_a,
        "positions"_a, "seed"_a, "eps"_a, "norm"_a, "temperature"_a, "rows_per_block"_a = 0, "order"_a = 0,
        "The block size is fixed; rows_per_block takes its place.");
  bind_rollout(m);
  m.def("reverse", &reverse, "values"_a, "with_barrier"_a, "order"_a);
  m.def("reverse_blocks", &reverse_blocks, "values"_a, "blocks"_a, "with_wait"_a, "order"_a);
  m.def("run_broken", &run_broken, "name"_a, "threads"_a, "order"_a);
}

}  // namespace latent_ext
