// The rollout of csrc/cuda on the host: all blocks of one cooperative launch, or one launch per phase.
#include "simt_rollout.h"

#include "cuda/latent_rollout.cuh"
#include "cuda/rollout/plan.h"
#include "latent_ext/philox.h"
#include "simt_arrays.h"

namespace latent_ext {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using MaybeBytes = std::optional<Bytes>;
using MaybeInt64s = std::optional<Int64s>;

PackedModel view(const char* argument, const Bytes& bytes, const Int64s& header) {
  return view_packed_model(argument, {header.data(), header.nbytes(), bytes.data(), bytes.size()},
                           WeightLayout::kRows);
}

template <typename T>
void set_caches(RolloutBody& body, const Maybe& position_embedding, const Int64s& prompt_index,
                const Int64s& prompt_len, const Array& key, const Array& value) {
  body.position_embedding = in<float>(position_embedding);
  body.positions = position_embedding ? position_embedding->shape(0) : int64_t(kFixedPosition);
  body.prompt_index = prompt_index.data();
  body.prompt_len = prompt_len.data();
  body.prefix_key = in<T>(key);
  body.prefix_value = in<T>(value);
  body.prompts = key.shape(1);
  body.max_prompt = key.shape(3);
  body.wide_heads = body.head_dim % 4 == 0;
}

template <typename T>
void run(RolloutArguments& a, const RolloutLayers& layers, bool persistent, unsigned blocks, int shared_limit,
         uint64_t order) {
  std::vector<unsigned char> memory(set_workspace<T>(a, nullptr) + 256, 0xFF);
  unsigned char* aligned = memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256) % 256;
  set_workspace<T>(a, aligned);
  *a.arrived = 0;
  const RolloutShared shared = rollout_shared(widest_row(a), shared_limit);
  if (persistent) {
    simt::launch_cooperative({blocks}, kRolloutThreads, shared.total, order,
                             [&] { persistent_rollout_kernel<T>(a, layers, shared); });
    return;
  }
  Phase phase = first_phase(a.program);
  do {
    simt::launch({blocks}, kRolloutThreads, shared.total, order++,
                 [&] { rollout_phase_kernel<T>(a, layers, shared, phase); });
  } while (advance(a.program, phase));
}

void latent_rollout(Bytes model, Maybe position_embedding, Array first, bool first_is_hidden, Int64s keys,
                    int64_t seed, Int64s prompt_index, Int64s prompt_len, Array prefix_key,
                    Array prefix_value, Array suffix_key, Array suffix_value, Int64s ancestry,
                    int64_t suffix_len, MaybeBytes reward_model, Maybe reward_position_embedding,
                    MaybeInt64s reward_prompt_index, MaybeInt64s reward_prompt_len, Maybe reward_prefix_key,
                    Maybe reward_prefix_value, double p, bool per_trajectory, bool embedding, float sigma,
                    bool relative, int64_t questions, std::vector<int64_t> keep, int64_t candidates,
                    Array thoughts, Maybe step_scores, Int64s lineage, Int64s final_keys,
                    Int64s final_prompts, Int64s model_header, MaybeInt64s reward_header,
                    const std::string& rung, unsigned blocks, int shared_limit, uint64_t order) {
  auto arguments = std::make_unique<RolloutArguments>();
  RolloutArguments& a = *arguments;
  const auto of_layers = std::make_unique<RolloutLayers>();
  RolloutLayers& layers = *of_layers;
  a = {};
  const PackedModel generator = view("model", model, model_header);
  set_body("model", generator, model.data(), a.body[kGenerator], layers.of[kGenerator]);
  set_head(generator, model.data(), a);
  a.program.layers[kGenerator] = static_cast<int>(generator.layers.size());
  a.dropout = make_dropout(p);
  a.per_trajectory = per_trajectory;
  a.embedding = embedding;
  a.sigma = sigma;
  a.relative = relative;
  a.seed = &seed;
  a.keys = keys.data();
  a.first = in<float>(first);
  a.ancestry = ancestry.data();
  a.final_slots = ancestry.mutable_data();
  a.capacity = thoughts.shape(0);
  a.thoughts = out<float>(thoughts);
  a.step_scores = step_scores ? out<float>(*step_scores) : nullptr;
  a.lineage = lineage.mutable_data();
  a.final_keys = final_keys.mutable_data();
  a.final_prompts = final_prompts.mutable_data();
  set_program(a, first.shape(0), questions, thoughts.shape(1), suffix_len, first_is_hidden, keep, candidates);

  for_storage_type(prefix_key, [&](auto storage) {
    using T = decltype(storage);
    RolloutBody& body = a.body[kGenerator];
    set_caches<T>(body, position_embedding, prompt_index, prompt_len, prefix_key, prefix_value);
    body.suffix_key = out<T>(suffix_key);
    body.suffix_value = out<T>(suffix_value);
    body.slots = suffix_key.shape(1);
    body.max_suffix = suffix_key.shape(3);
    body.wide = wide_rows(body.hidden, {body.position_embedding, a.first, a.thoughts});
    if (reward_model) {
      const PackedModel scorer = view("reward_model", *reward_model, *reward_header);
      RolloutBody& reward = a.body[kReward];
      set_body("reward_model", scorer, reward_model->data(), reward, layers.of[kReward]);
      a.program.layers[kReward] = static_cast<int>(scorer.layers.size());
      set_caches<T>(reward, reward_position_embedding, *reward_prompt_index, *reward_prompt_len,
                    *reward_prefix_key, *reward_prefix_value);
      reward.slots = a.capacity;
      reward.max_suffix = thoughts.shape(1);
      reward.wide = wide_rows(reward.hidden, {reward.position_embedding});
    }
    run<T>(a, layers, rung != "stream", blocks, shared_limit, order);
  });
}

py::tuple rotation(Floats angles) {
  const py::ssize_t count = angles.shape(0);
  Array sine = poisoned(angles.dtype(), {count}), cosine = poisoned(angles.dtype(), {count});
  for (py::ssize_t i = 0; i < count; ++i) {
    const SineCosine at = sine_cosine(angles.data()[i]);
    out<float>(sine)[i] = at.sine;
    out<float>(cosine)[i] = at.cosine;
  }
  return py::make_tuple(sine, cosine);
}

}  // namespace

void bind_rollout(py::module_& m) {
  using namespace pybind11::literals;
  m.def("latent_rollout", &latent_rollout, "model"_a, "position_embedding"_a, "first"_a, "first_is_hidden"_a,
        "keys"_a, "seed"_a, "prompt_index"_a, "prompt_len"_a, "prefix_key"_a, "prefix_value"_a,
        "suffix_key"_a, "suffix_value"_a, "ancestry"_a, "suffix_len"_a, "reward_model"_a,
        "reward_position_embedding"_a, "reward_prompt_index"_a, "reward_prompt_len"_a, "reward_prefix_key"_a,
        "reward_prefix_value"_a, "p"_a, "per_trajectory"_a, "embedding"_a, "sigma"_a, "relative"_a,
        "questions"_a, "keep"_a, "candidates"_a, "thoughts"_a, "step_scores"_a, "lineage"_a, "final_keys"_a,
        "final_prompts"_a, "model_header"_a, "reward_header"_a, "rung"_a, "blocks"_a = 3,
        "shared_limit"_a = 232448, "order"_a = 0, "Writes what the op writes.");
  m.def("sine_cosine", &rotation, "angles"_a);
}

}  // namespace latent_ext
