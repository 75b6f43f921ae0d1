// Attention of the new position of each row and head, one warp each: over the prompt's cache, the row's own
// suffix and itself. Four positions at a time, eight lanes each; every group of lanes keeps a running softmax
// of its positions, and the four are merged at the end. Neighbouring warps of a block serve neighbouring rows
// of one head, which find the prompt they share in the L1 cache.
#pragma once

#include "arguments.cuh"
#include "latent_ext/elementary.h"

namespace latent_ext {

constexpr int kAttentionGroups = 4, kGroupLanes = kWarpThreads / kAttentionGroups;
constexpr int kGroupFeatures = 4 * kGroupLanes;  // of a head, by one round of a group's lanes
constexpr int kMaxRolloutHeadDim = 256;

// Features 4i .. 4i + 3 of every kGroupFeatures of a head vector, for lane i of a group.
template <int kRounds>
struct HeadPart {
  float value[kRounds][4];
};

template <int kRounds, typename T>
__device__ __forceinline__ HeadPart<kRounds> load_head(const T* head, int size, bool wide) {
  HeadPart<kRounds> part;
  const int i = threadIdx.x % kGroupLanes;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int first = round * kGroupFeatures + 4 * i;
    if (wide && first < size) {
      if constexpr (sizeof(T) == 4) {
        const uint4 raw = *reinterpret_cast<const uint4*>(head + first);
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) part.value[round][j] = float_of_bits(words[j]);
      } else {
        const uint2 raw = *reinterpret_cast<const uint2*>(head + first);
        part.value[round][0] = float_of_bits(raw.x << 16);
        part.value[round][1] = float_of_bits(raw.x & 0xFFFF0000u);
        part.value[round][2] = float_of_bits(raw.y << 16);
        part.value[round][3] = float_of_bits(raw.y & 0xFFFF0000u);
      }
      continue;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) part.value[round][j] = first + j < size ? to_float(head[first + j]) : 0.0f;
  }
  return part;
}

// A new query or key [head_dim] at its position.
template <int kRounds>
__device__ __forceinline__ HeadPart<kRounds> rotated_head(const RolloutBody& body, const float* head,
                                                          int64_t row) {
  HeadPart<kRounds> part = load_head<kRounds>(head, body.head_dim, body.wide_heads);
  if (body.inverse_frequencies == 0) return part;
  const int half = body.head_dim / 2, i = threadIdx.x % kGroupLanes;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int d = round * kGroupFeatures + 4 * i + j;
      if (d >= body.head_dim) continue;
      const bool low = d < half;
      const int angle = low ? d : d - half;
      const float cosine = body.cosines[row * half + angle], sine = body.sines[row * half + angle];
      const float other = head[low ? d + half : d - half];
      part.value[round][j] = part.value[round][j] * cosine + (low ? -other : other) * sine;
    }
  }
  return part;
}

// As the cache will hold it, and into the cache where this warp is the one that stores it.
template <int kRounds, typename T>
__device__ __forceinline__ void round_and_store(HeadPart<kRounds>& part, T* place, int size, bool store) {
  const int i = threadIdx.x % kGroupLanes;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      T rounded;
      store_rounded(&rounded, part.value[round][j]);
      part.value[round][j] = to_float(rounded);
      const int d = round * kGroupFeatures + 4 * i + j;
      if (store && d < size) place[d] = rounded;
    }
  }
}

// What a group of lanes knows of its positions.
template <int kRounds>
struct RunningSoftmax {
  float largest, total;
  HeadPart<kRounds> sum;

  __device__ __forceinline__ void add(float logit, const HeadPart<kRounds>& value) {
    const float top = logit > largest ? logit : largest;
    // Before the first finite logit nothing has been summed, and -inf - -inf must not become NaN.
    const float shrink = largest == top ? 1.0f : softmax_exp(largest - top);
    const float weight = logit == float_of_bits(0xFF800000u) ? 0.0f : softmax_exp(logit - top);
    total = total * shrink + weight;
    largest = top;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        sum.value[round][j] = fmaf(weight, value.value[round][j], sum.value[round][j] * shrink);
    }
  }

  // With that of the group whose lanes differ in this bit.
  __device__ __forceinline__ void merge(int lane_mask) {
    const float other_largest = __shfl_xor_sync(kWholeWarp, largest, lane_mask);
    const float other_total = __shfl_xor_sync(kWholeWarp, total, lane_mask);
    const float top = other_largest > largest ? other_largest : largest;
    const float mine = largest == top ? 1.0f : softmax_exp(largest - top);
    const float others = other_largest == top ? 1.0f : softmax_exp(other_largest - top);
    // Both sides must form the same sum: the lower group's part comes first.
    const bool lower = (threadIdx.x & lane_mask) == 0;
    const float a = total * mine, b = other_total * others;
    total = lower ? a + b : b + a;
    largest = top;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float other = __shfl_xor_sync(kWholeWarp, sum.value[round][j], lane_mask) * others;
        const float own = sum.value[round][j] * mine;
        sum.value[round][j] = lower ? own + other : other + own;
      }
    }
  }
};

template <int kRounds>
__device__ __forceinline__ float group_dot(const HeadPart<kRounds>& a, const HeadPart<kRounds>& b) {
  float dot = 0.0f;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (int j = 0; j < 4; ++j) dot = fmaf(a.value[round][j], b.value[round][j], dot);
  }
#pragma unroll
  for (int lane_mask = kGroupLanes / 2; lane_mask > 0; lane_mask /= 2)
    dot += __shfl_xor_sync(kWholeWarp, dot, lane_mask);
  return dot;
}

// One row and head, by a warp. A function of its own, as linear_unit is and for the same reason.
template <typename T, int kRounds>
__device__ __noinline__ void attend_row(const RolloutArguments& a, const Phase& phase, int b, int64_t row,
                                        int head, float scale) {
  const RolloutBody& body = a.body[b];
  const RowTable& table = a.table[phase.table];
  const int size = body.head_dim, group = body.heads / body.kv_heads, kv_head = head / group;
  const int64_t suffix = suffix_of(phase, b), prompt = table.prompt[b][row];
  T* const out = static_cast<T*>(body.context) + (row * body.heads + head) * size;
  const int of_warp = threadIdx.x % kWarpThreads / kGroupLanes, i = threadIdx.x % kGroupLanes;
  if (prompt < 0) {
    for (int d = threadIdx.x % kWarpThreads; d < size; d += kWarpThreads)
      store_rounded(out + d, float_of_bits(0x7FC00000u));
    return;
  }

  const float* const fresh = body.query_key_value + row * body.query_key_value_size();
  const HeadPart<kRounds> query = rotated_head<kRounds>(body, fresh + head * size, row);
  HeadPart<kRounds> new_key = rotated_head<kRounds>(body, fresh + (body.heads + kv_head) * size, row);
  HeadPart<kRounds> new_value =
      load_head<kRounds>(fresh + (body.heads + body.kv_heads + kv_head) * size, size, body.wide_heads);
  const int64_t cache_heads = (phase.layer * body.prompts + prompt) * body.kv_heads + kv_head;
  const T* const prefix_key = static_cast<const T*>(body.prefix_key) + cache_heads * body.max_prompt * size;
  const T* const prefix_value =
      static_cast<const T*>(body.prefix_value) + cache_heads * body.max_prompt * size;
  const int64_t* const slots = table.slots[b] + row * body.max_suffix;
  const auto page = [&](int64_t s) {
    return (((phase.layer * body.slots + slots[s]) * body.kv_heads + kv_head) * body.max_suffix + s) * size;
  };
  const bool stores = head % group == 0 && of_warp == 0;
  round_and_store(new_key, static_cast<T*>(body.suffix_key) + page(suffix), size, stores);
  round_and_store(new_value, static_cast<T*>(body.suffix_value) + page(suffix), size, stores);

  RunningSoftmax<kRounds> softmax = {float_of_bits(0xFF800000u), 0.0f, {}};
  const float new_logit = group_dot(query, new_key) * scale;
  if (of_warp == 0) softmax.add(new_logit, new_value);  // first: its key and value then need no registers
  const int64_t prompt_len = body.prompt_len[prompt], before = prompt_len + suffix;
  for (int64_t base = 0; base < before; base += kAttentionGroups) {
    const int64_t position = base + of_warp;
    const T *key = prefix_key, *value = prefix_value;
    if (position < prompt_len) {
      key += position * size;
      value += position * size;
    } else if (position < before) {
      const int64_t at = page(position - prompt_len);
      key = static_cast<const T*>(body.suffix_key) + at;
      value = static_cast<const T*>(body.suffix_value) + at;
    }
    // A group without a position reads nothing but takes part in the dot's shuffles.
    const HeadPart<kRounds> k = load_head<kRounds>(key, position < before ? size : 0, body.wide_heads);
    const HeadPart<kRounds> v = load_head<kRounds>(value, position < before ? size : 0, body.wide_heads);
    const float logit = group_dot(query, k) * scale;
    if (position < before) softmax.add(logit, v);
  }
  softmax.merge(kGroupLanes);
  softmax.merge(2 * kGroupLanes);
  if (of_warp != 0) return;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int d = round * kGroupFeatures + 4 * i + j;
      if (d < size) store_rounded(out + d, softmax.sum.value[round][j] / softmax.total);
    }
  }
}

template <typename T>
__device__ __forceinline__ void run_attention(const RolloutArguments& a, const RolloutLayers& layers,
                                              const Phase& phase) {
  int64_t tasks[2];
  for (int b = 0; b < 2; ++b) tasks[b] = takes_part(a.program, phase, b) ? phase.rows * a.body[b].heads : 0;
  // Contiguous shares, in warps of a block one after the other.
  const int64_t all = tasks[0] + tasks[1], blocks = gridDim.x;
  const int64_t begin = all * blockIdx.x / blocks, end = all * (blockIdx.x + 1) / blocks;
  for (int64_t task = begin + threadIdx.x / kWarpThreads; task < end; task += kRolloutWarps) {
    const int b = task < tasks[0] ? 0 : 1;
    const int64_t own = b == 0 ? task : task - tasks[0];
    const int head = static_cast<int>(own / phase.rows);
    const int64_t row = own % phase.rows;
    const float scale = layers.of[b][phase.layer].attention_scale;
    switch ((a.body[b].head_dim + kGroupFeatures - 1) / kGroupFeatures) {
      case 1:
      case 2:
        attend_row<T, 2>(a, phase, b, row, head, scale);
        break;
      case 3:
      case 4:
        attend_row<T, 4>(a, phase, b, row, head, scale);
        break;
      default:
        attend_row<T, 8>(a, phase, b, row, head, scale);
    }
  }
}

}  // namespace latent_ext
