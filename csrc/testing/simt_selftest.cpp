// Runs every kernel on the host with awkward sizes and many schedules; meant to be built with
// AddressSanitizer and UndefinedBehaviorSanitizer (run_sanitized.sh), which need a program of their own.
// Every buffer has exactly the size the kernel is told, and shared memory exactly the size of the launch, so
// one element too many is an error. Values are checked in Python.
//
//     simt_selftest                     all kernels
//     simt_selftest past_shared_memory  the kernel that writes past its shared memory: a sanitizer must stop
//     it
#include <cstdio>

#include "broken_kernels.cuh"
#include "cuda/dropout_add_norm.cuh"
#include "cuda/next_thought.cuh"
#include "cuda/next_token.cuh"
#include "cuda/prefix_decode_attention.cuh"
#include "cuda/score_and_prune.cuh"

namespace latent_ext {
namespace {

// `offset` elements before the data make it unaligned.
template <typename T>
struct Buffer {
  explicit Buffer(int64_t count, int offset = 0) : data(new T[count + offset]), begin(data.get() + offset) {
    for (int64_t i = 0; i < count; ++i) store_rounded(begin + i, 0.01f * static_cast<float>(i % 97) - 0.4f);
  }
  operator T*() const { return begin; }

  std::unique_ptr<T[]> data;
  T* begin;
};

const int64_t kSeed = -3;
const int64_t kKeys[] = {1, -2, int64_t{3} << 40, 4, 5};
const int64_t kPositions[] = {0, 7, 1048575, 9, 10};
constexpr unsigned kRows = 5;

template <typename T>
void dropout_add_norm(int hidden, int offset, uint64_t order) {
  const Buffer<T> branch(kRows * hidden, offset), residual(kRows * hidden), weight(hidden), bias(hidden);
  const Buffer<T> residual_out(kRows * hidden), normed(kRows * hidden);
  const bool fits = dropout_add_norm_row_fits<T>(hidden);
  const bool wide = can_read_packs<T>(hidden, {branch, residual, weight, bias, residual_out, normed});
  const DropoutAddNormArguments<T> a{branch, residual,         weight, bias,   kKeys, kPositions,
                                     &kSeed, residual_out,     normed, hidden, 17,    make_dropout(0.3),
                                     1e-5f,  NormKind::kLayer, wide,   fits};
  simt::launch({kRows}, row_block_threads<T>(hidden), dropout_add_norm_shared_bytes<T>(hidden, fits), order,
               [&] { dropout_add_norm_kernel(a); });
}

template <typename T>
void next_thought(int hidden, int offset, uint64_t order) {
  constexpr int kSteps = 3;
  const Buffer<T> state(kRows * hidden, offset), weight(hidden), log_std(kRows * hidden);
  const Buffer<T> next_input(kRows * hidden), thoughts(kRows * kSteps * hidden);
  const bool wide = can_read_packs<T>(hidden, {state, weight, log_std, next_input, thoughts});
  for (bool relative : {false, true}) {
    const NextThoughtArguments<T> a{state,          weight,     nullptr, relative ? nullptr : log_std.begin,
                                    kKeys,          kPositions, &kSeed,  next_input,
                                    thoughts,       hidden,     kSteps,  kSteps - 1,
                                    1e-5f,          0.5f,       0.7f,    relative,
                                    NormKind::kRms, wide};
    simt::launch({kRows}, row_block_threads<T>(hidden), kNextThoughtSharedBytes, order,
                 [&] { next_thought_kernel(a); });
  }
}

template <typename T>
void score_and_prune(int hidden, int offset, uint64_t order) {
  const Buffer<T> state(kRows * hidden, offset), weight(hidden), bias(1);
  const Buffer<float> cumulative(kRows), step_score(kRows), total(kRows);
  const int64_t offsets[] = {0, 0, 4, 99};
  constexpr int kKeep = 3;
  const std::unique_ptr<int64_t[]> survivors(new int64_t[3 * kKeep]);
  const ScoreAndPruneArguments<T> a{state,   weight,     bias,   cumulative,
                                    offsets, step_score, total,  survivors.get(),
                                    kRows,   kKeep,      hidden, can_read_packs<T>(hidden, {state, weight})};
  simt::launch({3}, kScoreAndPruneThreads, 0, order, [&] { score_and_prune_kernel(a); });
}

template <typename T>
void prefix_decode_attention(int head_dim, int offset, uint64_t order) {
  constexpr int kHeads = 18, kKvHeads = 2, kPrompts = 2, kMaxPrompt = 4, kSlots = 6, kMaxSuffix = 3;
  const Buffer<T> query(kRows * kHeads * head_dim), key(kRows * kKvHeads * head_dim),
      value(kRows * kKvHeads * head_dim);
  const int64_t prefix = kPrompts * kKvHeads * kMaxPrompt * head_dim,
                suffix = kSlots * kKvHeads * kMaxSuffix * head_dim;
  const Buffer<T> prefix_key(prefix, offset), prefix_value(prefix), suffix_key(suffix), suffix_value(suffix);
  const Buffer<T> result(kRows * kHeads * head_dim);
  const int64_t prompt_index[] = {0, 1, 1, 0, 7}, prompt_len[] = {kMaxPrompt, 0},
                suffix_len[] = {2, 0, 1, 3, 0};
  const int64_t ancestry[kRows * kMaxSuffix] = {5, 5, 0, 1, -1, -1, 99, 2, -1, 3, 3, 3, 4, 4, 4};
  const PrefixDecodeAttentionArguments<T> a{
      query,      key,          value,
      prefix_key, prefix_value, prompt_index,
      prompt_len, suffix_key,   suffix_value,
      ancestry,   suffix_len,   result,
      kPrompts,   kMaxPrompt,   kSlots,
      kMaxSuffix, kHeads,       kKvHeads,
      head_dim,   0.3f,         can_read_packs<T>(head_dim, {key, prefix_key, suffix_key})};
  simt::launch({kRows, kKvHeads, 2}, kAttentionThreads, attention_shared_bytes(kHeadsPerBlock, head_dim),
               order, [&] { prefix_decode_attention_kernel(a); });
}

template <typename T>
void next_token(int hidden, int offset, uint64_t order) {
  constexpr int kVocabulary = 261;
  const Buffer<T> state(kRows * hidden, offset), lm_head(kVocabulary * hidden), weight(hidden), bias(hidden);
  const std::unique_ptr<TokenChoice[]> choices(new TokenChoice[kRows * 2]);
  const std::unique_ptr<int64_t[]> token(new int64_t[kRows]);
  const Buffer<float> logprob(kRows);
  constexpr int kRowsPerBlock = 3;
  const bool wide = can_read_packs<T>(hidden, {state, lm_head, weight, bias});
  const NextTokenArguments<T> a{
      state, weight, bias,        lm_head,       kKeys, kPositions, &kSeed,           choices.get(),
      kRows, hidden, kVocabulary, kRowsPerBlock, 1e-5f, 0.8f,       NormKind::kLayer, wide};
  simt::launch({2, 2}, kTokenThreads, next_token_shared_bytes<T>(hidden, kRowsPerBlock), order,
               [&] { next_token_block_kernel(a); });
  const MergeTokenArguments merge{choices.get(), token.get(), logprob, 2};
  simt::launch({kRows}, kWarpThreads, 0, order, [&] { merge_token_kernel(merge); });
}

template <typename T>
void all_kernels() {
  for (int hidden : {1, 7, 8, 65, 520}) {
    for (int offset : {0, 1}) {
      for (uint64_t order : {1, 2}) {
        dropout_add_norm<T>(hidden, offset, order);
        next_thought<T>(hidden, offset, order);
        score_and_prune<T>(hidden, offset, order);
        prefix_decode_attention<T>(hidden < 100 ? hidden : 40, offset, order);
      }
      next_token<T>(hidden, offset, 1);
    }
  }
  dropout_add_norm<T>(30000, 0, 1);
}

}  // namespace
}  // namespace latent_ext

int main(int argc, char** argv) {
  using namespace latent_ext;
  if (argc > 1 && std::string(argv[1]) == "past_shared_memory") {
    std::vector<float> out(64);
    simt::launch({1}, 64, 64 * sizeof(float), 0, [&] { past_shared_memory_kernel(out.data()); });
    std::puts("nothing noticed the write past shared memory");
    return 0;
  }
  all_kernels<float>();
  all_kernels<BFloat16>();
  std::puts("all kernels ran");
  return 0;
}
