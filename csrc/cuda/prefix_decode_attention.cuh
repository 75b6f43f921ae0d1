// Attention of one new position per row over the prompt's cache and the row's own suffix, one block per (row,
// kv head).
//
// The query heads of a kv head are served together, so its keys and values are read once for up to
// kHeadsPerBlock heads; rows of one prompt find the prompt in the L2 cache. Positions are taken
// kAttentionTile at a time with a running softmax: a thread owns a (head, position) for the logits and a
// (head, feature) for the weighted sum, both in ascending order, so the result depends on the row's own
// lengths and on nothing else.
#pragma once

#include "latent_ext/elementary.h"
#include "reduce.cuh"
#include "row.cuh"

namespace latent_ext {

constexpr int kAttentionTile = 128;
constexpr int kAttentionThreads = 128;
constexpr int kHeadsPerBlock = 8;

template <typename T>
struct PrefixDecodeAttentionArguments {
  const T* query;               // [rows, heads, head_dim]
  const T* key;                 // [rows, kv_heads, head_dim]
  const T* value;               // [rows, kv_heads, head_dim]
  const T* prefix_key;          // [prompts, kv_heads, max_prompt, head_dim]
  const T* prefix_value;        // [prompts, kv_heads, max_prompt, head_dim]
  const int64_t* prompt_index;  // [rows]
  const int64_t* prompt_len;    // [prompts]
  T* suffix_key;                // [slots, kv_heads, max_suffix, head_dim]
  T* suffix_value;              // [slots, kv_heads, max_suffix, head_dim]
  const int64_t* ancestry;      // [rows, max_suffix]
  const int64_t* suffix_len;    // [rows]
  T* out;                       // [rows, heads, head_dim]
  int64_t prompts, max_prompt, slots, max_suffix;
  int heads, kv_heads, head_dim;
  float scale;
  bool wide;  // every head vector can be read in 16-byte packs
};

// In shared memory, for `heads` query heads of one block: query and sum [heads, head_dim], weights [heads,
// kAttentionTile], largest, total and shrink [heads].
inline size_t attention_shared_bytes(int heads, int head_dim) {
  return sizeof(float) * heads * (2 * static_cast<size_t>(head_dim) + kAttentionTile + 3);
}

// Where position p of a row lies: in the prompt, in the suffix, or in the new key or value itself. Null where
// the caller's ancestry names no slot; the host cannot check it without waiting for the device.
template <typename T>
struct PositionReader {
  const PrefixDecodeAttentionArguments<T>& a;
  const int64_t* ancestry;  // [max_suffix] of the row
  int64_t prompt, prompt_len, suffix_len;
  int kv_head;

  __device__ __forceinline__ const T* find(int64_t position, const T* prefix, const T* suffix,
                                           const T* fresh) const {
    if (position < prompt_len) {
      return prefix + ((prompt * a.kv_heads + kv_head) * a.max_prompt + position) * a.head_dim;
    }
    const int64_t s = position - prompt_len;
    if (s == suffix_len) return fresh;
    const int64_t slot = ancestry[s];
    if (slot < 0 || slot >= a.slots) return nullptr;
    return suffix + ((slot * a.kv_heads + kv_head) * a.max_suffix + s) * a.head_dim;
  }
};

template <typename T>
__device__ __forceinline__ float head_dot(const float* query, const T* key, int head_dim, bool wide) {
  float dot = 0.0f;
  for (int first = 0; first < head_dim; first += kPack<T>) {
    const Pack<T> k = load_pack(key, first, head_dim, wide);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      if (first + i < head_dim) dot = fmaf(query[first + i], k.value[i], dot);
    }
  }
  return dot;
}

template <typename T>
__global__ void __launch_bounds__(kAttentionThreads, 1)
    prefix_decode_attention_kernel(PrefixDecodeAttentionArguments<T> a) {
  const float nan = float_of_bits(0x7FC00000u), minus_infinity = float_of_bits(0xFF800000u);
  const int64_t row = blockIdx.x;
  const int kv_head = static_cast<int>(blockIdx.y), group = a.heads / a.kv_heads;
  const int first_head = static_cast<int>(blockIdx.z) * kHeadsPerBlock;
  const int heads = group - first_head < kHeadsPerBlock ? group - first_head : kHeadsPerBlock;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarpThreads, warp = thread / kWarpThreads, warps = threads / kWarpThreads;
  const int64_t head_offset =
      (row * a.heads + static_cast<int64_t>(kv_head) * group + first_head) * a.head_dim;
  T* const out = a.out + head_offset;  // [heads, head_dim]

  const int64_t prompt = a.prompt_index[row], suffix_len = a.suffix_len[row];
  const int64_t* const ancestry = a.ancestry + row * a.max_suffix;
  const bool known = prompt >= 0 && prompt < a.prompts && suffix_len >= 0 && suffix_len < a.max_suffix;
  const int64_t prompt_len = known ? a.prompt_len[prompt] : -1;
  const int64_t slot = known ? ancestry[suffix_len] : -1;
  if (prompt_len < 0 || prompt_len > a.max_prompt || slot < 0 || slot >= a.slots) {
    for (int i = thread; i < heads * a.head_dim; i += threads) store_rounded(out + i, nan);
    return;
  }

  float* const query = reinterpret_cast<float*>(dynamic_shared());
  float* const sum = query + heads * a.head_dim;
  float* const weights = sum + heads * a.head_dim;
  float* const largest = weights + heads * kAttentionTile;
  float* const total = largest + heads;
  float* const shrink = total + heads;
  for (int i = thread; i < heads * a.head_dim; i += threads) {
    query[i] = to_float(a.query[head_offset + i]);
    sum[i] = 0.0f;
  }
  for (int h = thread; h < heads; h += threads) {
    largest[h] = minus_infinity;
    total[h] = 0.0f;
  }

  const int64_t fresh_offset = (row * a.kv_heads + kv_head) * a.head_dim;
  const T *const fresh_key = a.key + fresh_offset, *const fresh_value = a.value + fresh_offset;
  if (first_head == 0) {
    const int64_t stored = ((slot * a.kv_heads + kv_head) * a.max_suffix + suffix_len) * a.head_dim;
    for (int i = thread; i < a.head_dim; i += threads) {
      a.suffix_key[stored + i] = fresh_key[i];
      a.suffix_value[stored + i] = fresh_value[i];
    }
  }
  __syncthreads();

  const PositionReader<T> reader{a, ancestry, prompt, prompt_len, suffix_len, kv_head};
  const int64_t positions = prompt_len + suffix_len + 1;
  for (int64_t base = 0; base < positions; base += kAttentionTile) {
    const int count = positions - base < kAttentionTile ? static_cast<int>(positions - base) : kAttentionTile;
    for (int item = thread; item < heads * kAttentionTile; item += threads) {
      const int h = item / kAttentionTile, p = item % kAttentionTile;
      if (p >= count) continue;
      const T* const k = reader.find(base + p, a.prefix_key, a.suffix_key, fresh_key);
      weights[item] = k == nullptr ? nan : head_dot(query + h * a.head_dim, k, a.head_dim, a.wide) * a.scale;
    }
    __syncthreads();

    for (int h = warp; h < heads; h += warps) {
      float* const w = weights + h * kAttentionTile;
      float top = largest[h];
      for (int p = lane; p < count; p += kWarpThreads) top = w[p] > top ? w[p] : top;
#pragma unroll
      for (int lane_mask = kWarpThreads / 2; lane_mask > 0; lane_mask /= 2) {
        const float other = __shfl_xor_sync(kWholeWarp, top, lane_mask);
        top = other > top ? other : top;
      }
      float tile_total = 0.0f;
      for (int p = lane; p < count; p += kWarpThreads) {
        w[p] = w[p] == minus_infinity ? 0.0f : softmax_exp(w[p] - top);
        tile_total += w[p];
      }
      tile_total = warp_sum(tile_total);
      if (lane == 0) {
        // Before the first finite logit nothing has been summed, and -inf - -inf must not become NaN.
        shrink[h] = largest[h] == top ? 1.0f : softmax_exp(largest[h] - top);
        total[h] = total[h] * shrink[h] + tile_total;
        largest[h] = top;
      }
    }
    __syncthreads();

    for (int item = thread; item < heads * a.head_dim; item += threads) {
      const int h = item / a.head_dim, d = item % a.head_dim;
      const float* const w = weights + h * kAttentionTile;
      float weighted = sum[item] * shrink[h];
      for (int p = 0; p < count; ++p) {
        const T* const v = reader.find(base + p, a.prefix_value, a.suffix_value, fresh_value);
        weighted = fmaf(w[p], v == nullptr ? nan : to_float(v[d]), weighted);
      }
      sum[item] = weighted;
    }
    __syncthreads();
  }
  for (int item = thread; item < heads * a.head_dim; item += threads) {
    store_rounded(out + item, sum[item] / total[item / a.head_dim]);
  }
}

}  // namespace latent_ext
