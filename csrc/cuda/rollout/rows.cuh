// What a block does to one row at a time, in functions of their own, as linear_unit is: the sums that blocks
// have left, dropout, residual and norm; the next thought; the inputs of a pass. Each thread keeps the same
// elements of a row throughout.
#pragma once

#include "../draw.cuh"
#include "../row_norm.cuh"
#include "arguments.cuh"
#include "latent_ext/rotation.h"
#include "linear.cuh"

namespace latent_ext {

// Shared memory of a row: slots for its sums, the row as it enters a norm, and a thought.
struct RowShared {
  float sums[(kMomentSums + 1) * kMaxWarps];

  __device__ float* row() { return reinterpret_cast<float*>(this + 1); }
  __device__ float* thought(int hidden) { return row() + (hidden + 3) / 4 * 4; }
};

inline size_t row_shared_bytes(int widest) {
  return sizeof(RowShared) + 2 * sizeof(float) * ((static_cast<size_t>(widest) + 3) / 4 * 4);
}

constexpr int kRowStride = kRolloutThreads * kPack<float>;

__device__ __forceinline__ int row_begin() {
  return static_cast<int>(threadIdx.x) * kPack<float>;
}

// Four values in the type of the linear layers' inputs.
template <typename T>
__device__ __forceinline__ void store_inputs(T* row, int first, int size, bool wide,
                                             const Pack<float>& pack) {
  if constexpr (sizeof(T) == 4) {
    store_pack(row, first, size, wide, pack);
  } else {
    if (wide) {
      const uint32_t low = bfloat16_bits(pack.value[0]) | bfloat16_bits(pack.value[1]) << 16;
      const uint32_t high = bfloat16_bits(pack.value[2]) | bfloat16_bits(pack.value[3]) << 16;
      *reinterpret_cast<uint2*>(row + first) = uint2{low, high};
      return;
    }
#pragma unroll
    for (int i = 0; i < kPack<float>; ++i)
      if (first + i < size) store_rounded(row + first + i, pack.value[i]);
  }
}

__device__ __forceinline__ Pack<float> apply_norm(const RolloutBody& body, const RolloutNorm& norm,
                                                  const Pack<float>& x, int first, int size, bool wide,
                                                  const Moments& moments) {
  return normed_pack(x, body.floats(norm.weight), body.floats(norm.bias), first, size, wide, norm.kind,
                     moments);
}

__device__ __forceinline__ Moments moments_of(RowShared* shared, int size, bool wide,
                                              const RolloutNorm& norm) {
  return row_moments(shared->row(), size, wide, norm.kind, norm.eps, BlockTeam{shared->sums});
}

// The row in shared->row() becomes the residual; its norm, the input of the first or next layer.
template <typename T>
__device__ __forceinline__ void store_normed(const RolloutBody& body, const RolloutNorm& norm, int64_t row,
                                             RowShared* shared) {
  T* const normed = static_cast<T*>(body.normed) + row * body.hidden;
  const Moments moments = moments_of(shared, body.hidden, body.wide, norm);
  for (int first = row_begin(); first < body.hidden; first += kRowStride) {
    const Pack<float> x = load_pack(shared->row(), first, body.hidden, body.wide);
    store_inputs(normed, first, body.hidden, body.wide,
                 apply_norm(body, norm, x, first, body.hidden, body.wide, moments));
  }
}

// The generator's hidden state of a row, for the thought head.
template <typename T>
__device__ __forceinline__ void store_hidden(const RolloutArguments& a, int64_t row, int first,
                                             const Pack<float>& pack) {
  const RolloutBody& body = a.body[kGenerator];
  const int64_t offset = row * a.stage_width;
  store_pack(a.stage_values[1] + offset, first, body.hidden, body.wide, pack);
  if (a.program.stages > 0) {
    store_inputs(static_cast<T*>(a.stage_inputs[1]) + offset, first, body.hidden, body.wide, pack);
  }
}

// The position behind the prompt and `suffix` more; 0 where the prompt is not known.
__device__ __forceinline__ int64_t position_of(const RolloutArguments& a, const RowTable& table, int body,
                                               int64_t row, int64_t suffix) {
  const int64_t prompt = table.prompt[body][row];
  return prompt < 0 ? 0 : a.body[body].prompt_len[prompt] + suffix;
}

__device__ __forceinline__ Draw mask_draw(const RolloutArguments& a, const RowTable& table, int64_t row,
                                          uint32_t site, int64_t position) {
  return make_draw(*a.seed, table.keys[row], site, a.per_trajectory ? int64_t(kFixedPosition) : position);
}

// A row's input [hidden] (in global or shared memory) with its position, as residual and normed; and the
// angles by which its queries and keys will be rotated.
template <typename T>
__device__ __noinline__ void begin_row(const RolloutArguments& a, const Phase& phase, int b, int64_t row,
                                       const float* input, RowShared* shared) {
  const RolloutBody& body = a.body[b];
  const RowTable& table = a.table[phase.table];
  const int64_t position = position_of(a, table, b, row, suffix_of(phase, b));
  const bool drops = b == kGenerator && a.embedding && a.dropout.active;
  Draw draw = {};
  if (drops) draw = mask_draw(a, table, row, kSiteEmbedding, position);
  for (int first = row_begin(); first < body.hidden; first += kRowStride) {
    Pack<float> x = load_pack(input, first, body.hidden, body.wide);
    if (body.position_embedding != nullptr) {
      const Pack<float> place =
          load_pack(body.position_embedding + position * body.hidden, first, body.hidden, body.wide);
#pragma unroll
      for (int i = 0; i < kPack<float>; ++i) x.value[i] += place.value[i];
    }
    if (drops) drop_pack(x, draw, first, a.dropout);
    store_pack(shared->row(), first, body.hidden, body.wide, x);
    store_pack(body.residual + row * body.hidden, first, body.hidden, body.wide, x);
  }
  store_normed<T>(body, body.first_norm, row, shared);
  const float* const frequencies = body.floats(body.inverse_frequencies);
  if (frequencies == nullptr) return;
  const int half = body.head_dim / 2;
  for (int i = threadIdx.x; i < half; i += kRolloutThreads) {
    const SineCosine at = sine_cosine(static_cast<float>(position) * frequencies[i]);
    body.cosines[row * half + i] = at.cosine * body.rotation_scale;
    body.sines[row * half + i] = at.sine * body.rotation_scale;
  }
}

// A row of kAttentionNorm or kMlpNorm.
template <typename T>
__device__ __noinline__ void norm_row(const RolloutArguments& a, const NormStep step, const Phase& phase,
                                      int b, int64_t row, RowShared* shared) {
  const RolloutBody& body = a.body[b];
  const RowTable& table = a.table[phase.table];
  const bool attention = phase.kind == PhaseKind::kAttentionNorm;
  const bool last = !attention && is_last_layer(a.program, phase, b);
  const float* const bias = body.floats(step.bias);
  const int splits = split_count(attention ? body.heads * body.head_dim : body.inner);
  const bool drops = b == kGenerator && a.dropout.active && (!attention || body.drops_attention_output);
  Draw draw = {};
  if (drops) {
    const uint32_t site = layer_site(phase.layer, attention ? kLayerAttentionOutput : kLayerMlpOutput);
    draw = mask_draw(a, table, row, site, position_of(a, table, b, row, suffix_of(phase, b)));
  }
  float* const residual = body.residual + row * body.hidden;
  for (int first = row_begin(); first < body.hidden; first += kRowStride) {
    Pack<float> x = load_pack(body.partial + row * body.hidden, first, body.hidden, body.wide);
    for (int split = 1; split < splits; ++split) {
      const Pack<float> more =
          load_pack(body.partial + (split * a.capacity + row) * body.hidden, first, body.hidden, body.wide);
#pragma unroll
      for (int i = 0; i < kPack<float>; ++i) x.value[i] += more.value[i];
    }
    if (bias != nullptr) {
      const Pack<float> constant = load_pack(bias, first, body.hidden, body.wide);
#pragma unroll
      for (int i = 0; i < kPack<float>; ++i) x.value[i] += constant.value[i];
    }
    if (drops) drop_pack(x, draw, first, a.dropout);
    const Pack<float> before = load_pack(residual, first, body.hidden, body.wide);
#pragma unroll
    for (int i = 0; i < kPack<float>; ++i) x.value[i] = before.value[i] + x.value[i];
    store_pack(shared->row(), first, body.hidden, body.wide, x);
    if (!last) store_pack(residual, first, body.hidden, body.wide, x);
  }
  if (!last) {
    store_normed<T>(body, step.norm, row, shared);
    return;
  }

  const Moments moments = moments_of(shared, body.hidden, body.wide, step.norm);
  const float* const score_weight = body.floats(body.score_weight);
  float dot = 0.0f;
  for (int first = row_begin(); first < body.hidden; first += kRowStride) {
    const Pack<float> x = load_pack(shared->row(), first, body.hidden, body.wide);
    const Pack<float> y = apply_norm(body, step.norm, x, first, body.hidden, body.wide, moments);
    if (b == kGenerator) {
      store_hidden<T>(a, row, first, y);
      continue;
    }
    const Pack<float> w = load_pack(score_weight, first, body.hidden, body.wide);
#pragma unroll
    for (int i = 0; i < kPack<float>; ++i) dot = fmaf(y.value[i], w.value[i], dot);
  }
  if (b == kGenerator) return;
  dot = BlockTeam{shared->sums}.sum(dot, kMomentSums);
  if (threadIdx.x == 0) {
    const float* const score_bias = body.floats(body.score_bias);
    const float score = score_bias == nullptr ? dot : dot + *score_bias;
    a.score_store[row * a.program.steps + phase.step] = score;
    table.total[row] += score;
  }
}

// A norm among the stages of the thought head.
template <typename T>
__device__ __noinline__ void stage_norm_row(const RolloutArguments& a, const Phase& phase, int64_t row,
                                            RowShared* shared) {
  const RolloutBody& body = a.body[kGenerator];
  const RolloutStage& stage = a.stage[phase.stage];
  const int size = stage.outputs, to = phase.stage % 2;
  const bool wide = size % kPack<float> == 0;
  const int64_t offset = row * a.stage_width;
  for (int first = row_begin(); first < size; first += kRowStride) {
    store_pack(shared->row(), first, size, wide,
               load_pack(a.stage_values[1 - to] + offset, first, size, wide));
  }
  const Moments moments = moments_of(shared, size, wide, stage.norm);
  for (int first = row_begin(); first < size; first += kRowStride) {
    Pack<float> x = load_pack(shared->row(), first, size, wide);
    x = apply_norm(body, stage.norm, x, first, size, wide, moments);
#pragma unroll
    for (int i = 0; i < kPack<float>; ++i) x.value[i] = activated(stage.activation, x.value[i]);
    store_pack(a.stage_values[to] + offset, first, size, wide, x);
    store_inputs(static_cast<T*>(a.stage_inputs[to]) + offset, first, size, wide, x);
  }
}

// The next thought of a row, and the inputs of the passes over it.
template <typename T>
__device__ __noinline__ void thought_row(const RolloutArguments& a, const Phase& phase, int64_t row,
                                         RowShared* shared) {
  const RolloutBody& body = a.body[kGenerator];
  const RowTable& table = a.table[phase.table];
  const int hidden = body.hidden;
  const bool wide = body.wide;
  const int64_t from = phase.moved ? a.parent[row] : row;
  const float* const source = a.stage_values[(a.program.stages + 1) % 2] + from * a.stage_width;
  for (int first = row_begin(); first < hidden; first += kRowStride) {
    store_pack(shared->row(), first, hidden, wide, load_pack(source, first, hidden, wide));
  }
  const Moments moments = moments_of(shared, hidden, wide, a.thought_norm);
  const auto mean_pack = [&](int first) {
    const Pack<float> x = load_pack(shared->row(), first, hidden, wide);
    Pack<float> z = apply_norm(body, a.thought_norm, x, first, hidden, wide, moments);
#pragma unroll
    for (int i = 0; i < kPack<float>; ++i) z.value[i] = a.thought_scale * z.value[i];
    return z;
  };
  float sigma = a.sigma;
  if (a.relative && a.sigma != 0.0f) {
    float squares = 0.0f;
    for (int first = row_begin(); first < hidden; first += kRowStride) {
      const Pack<float> z = mean_pack(first);
#pragma unroll
      for (int i = 0; i < kPack<float>; ++i) squares += first + i < hidden ? z.value[i] * z.value[i] : 0.0f;
    }
    sigma =
        a.sigma * square_root(BlockTeam{shared->sums}.sum(squares, kMomentSums) / static_cast<float>(hidden));
  }
  const Draw draw =
      make_draw(*a.seed, table.keys[row], kSiteNoise, position_of(a, table, kGenerator, row, phase.suffix));
  float* const thought = shared->thought(hidden);
  float* const stored = a.thought_store + (row * a.program.steps + phase.step) * hidden;
  for (int first = row_begin(); first < hidden; first += kRowStride) {
    Pack<float> z = mean_pack(first);
    if (a.sigma != 0.0f) {
      const Pack<float> noise = normal_pack<float>(draw, first);
#pragma unroll
      for (int i = 0; i < kPack<float>; ++i) z.value[i] = z.value[i] + sigma * noise.value[i];
    }
    store_pack(thought, first, hidden, wide, z);
    store_pack(stored, first, hidden, wide, z);
  }
  const bool last = phase.step + 1 == a.program.steps;
  if (!last && !a.program.separate) {
    __syncthreads();  // the row is about to be written over, and the slots of its sums
    begin_row<T>(a, phase, kGenerator, row, thought, shared);
  }
  if (a.program.reward()) {
    __syncthreads();
    begin_row<T>(a, phase, kReward, row, thought, shared);
  }
}

// The generator's input where its pass over the last thought is separate.
template <typename T>
__device__ __noinline__ void reread_row(const RolloutArguments& a, const Phase& phase, int64_t row,
                                        RowShared* shared) {
  const int64_t steps = a.program.steps;
  const int64_t by = a.table[phase.table].lineage[row * steps + phase.step];
  begin_row<T>(a, phase, kGenerator, row,
               a.thought_store + (by * steps + phase.step) * a.body[kGenerator].hidden, shared);
}

}  // namespace latent_ext
