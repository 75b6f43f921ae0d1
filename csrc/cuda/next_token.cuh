// Final norm, LM head and choice of a token without storing rows x vocabulary.
//
// The first kernel gives each block kVocabularyBlock ids and up to kTokenRows rows (row blocks fastest, so
// that neighbours share the weights in the L2 cache): a warp reads each of its 32 ids' weights once for all
// rows of the block and keeps the best token and the softmax sum of its ids. The second kernel merges the
// blocks of a row. A logit is one warp's dot product whatever the number of rows, and merging follows the
// vocabulary, so a row's token and probability depend on the row alone.
#pragma once

#include "draw.cuh"
#include "latent_ext/gumbel.h"
#include "row_norm.cuh"

namespace latent_ext {

constexpr int kTokenRows = 8;
constexpr int kTokenWarps = 8;
constexpr int kTokenThreads = kTokenWarps * kWarpThreads;
constexpr int kVocabularyBlock = kTokenThreads;  // a warp's share is one id per lane

// What is known of a part of the vocabulary.
struct TokenChoice {
  float value;    // largest of logit, or of logit / temperature + Gumbel
  float logit;    // of the token with that value
  int token;      // -1: every value was NaN
  float largest;  // largest logit that is not NaN; -inf if there is none
  float sum;      // of exp(logit - largest); NaN if a logit is
};

template <typename T>
struct NextTokenArguments {
  const T* hidden;           // [rows, hidden_size]
  const T* norm_weight;      // [hidden_size] or null
  const T* norm_bias;        // [hidden_size] or null
  const T* lm_head;          // [vocabulary, hidden_size]
  const int64_t* keys;       // [rows]
  const int64_t* positions;  // [rows]
  const int64_t* seed;       // [1], read here so that a captured graph can be replayed with another seed
  TokenChoice* choices;      // [rows, blocks of the vocabulary]
  int64_t rows;
  int hidden_size;
  int vocabulary;
  int rows_per_block;
  float eps;
  float temperature;
  NormKind norm;
  bool wide;  // every row can be read in 16-byte packs
};

struct MergeTokenArguments {
  const TokenChoice* choices;  // [rows, blocks]
  int64_t* token;              // [rows]
  float* logprob;              // [rows]
  int blocks;
};

template <typename T>
size_t padded_row(int hidden) {
  return (static_cast<size_t>(hidden) + kPack<T> - 1) / kPack<T> * kPack<T>;
}

// Shared memory: the choices of every warp, then the normed rows in fp32, zero past their end.
template <typename T>
size_t next_token_shared_bytes(int hidden, int rows_per_block) {
  const size_t choices = sizeof(TokenChoice) * kTokenWarps * kTokenRows;
  return choices + sizeof(float) * padded_row<T>(hidden) * rows_per_block;
}

template <typename T>
int next_token_rows_per_block(int hidden) {
  int rows = kTokenRows;
  while (rows > 1 && next_token_shared_bytes<T>(hidden, rows) > kPlainSharedBytes) --rows;
  return rows;
}

__device__ __forceinline__ TokenChoice merged(const TokenChoice& a, const TokenChoice& b) {
  const bool b_better =
      b.token >= 0 && (a.token < 0 || b.value > a.value || (b.value == a.value && b.token < a.token));
  TokenChoice result = b_better ? b : a;
  result.largest = b.largest > a.largest ? b.largest : a.largest;
  // A part whose largest logit is that of the whole keeps its sum: -inf - -inf must not become NaN.
  const float from_a = a.largest == result.largest ? a.sum : a.sum * softmax_exp(a.largest - result.largest);
  const float from_b = b.largest == result.largest ? b.sum : b.sum * softmax_exp(b.largest - result.largest);
  result.sum = from_a + from_b;
  return result;
}

__device__ __forceinline__ TokenChoice warp_merged(TokenChoice mine) {
#pragma unroll
  for (int lane_mask = 1; lane_mask < kWarpThreads; lane_mask *= 2) {
    TokenChoice other;
    other.value = __shfl_xor_sync(kWholeWarp, mine.value, lane_mask);
    other.logit = __shfl_xor_sync(kWholeWarp, mine.logit, lane_mask);
    other.token = __shfl_xor_sync(kWholeWarp, mine.token, lane_mask);
    other.largest = __shfl_xor_sync(kWholeWarp, mine.largest, lane_mask);
    other.sum = __shfl_xor_sync(kWholeWarp, mine.sum, lane_mask);
    mine = merged(mine, other);
  }
  return mine;
}

__device__ __forceinline__ TokenChoice no_choice() {
  const float minus_infinity = float_of_bits(0xFF800000u);
  return {minus_infinity, minus_infinity, -1, minus_infinity, 0.0f};
}

__device__ __forceinline__ TokenChoice single_choice(float logit, int id, const Draw& draw,
                                                     float temperature) {
  const float minus_infinity = float_of_bits(0xFF800000u);
  float value = logit;
  if (temperature > 0.0f)
    value = logit / temperature + gumbel_from_word(random_word(draw, static_cast<uint64_t>(id)));
  TokenChoice choice = no_choice();
  if (value == value) choice = {value, logit, id, logit, logit == minus_infinity ? 0.0f : 1.0f};
  if (logit != logit) choice.sum = logit;
  return choice;
}

template <typename T>
__global__ void __launch_bounds__(kTokenThreads) next_token_block_kernel(NextTokenArguments<T> a) {
  auto* const warp_choices = reinterpret_cast<TokenChoice*>(dynamic_shared());  // [kTokenWarps, kTokenRows]
  auto* const normed = reinterpret_cast<float*>(warp_choices + kTokenWarps * kTokenRows);
  const int stride = (a.hidden_size + kPack<T> - 1) / kPack<T> * kPack<T>;
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * a.rows_per_block;
  const int rows =
      a.rows - first_row < a.rows_per_block ? static_cast<int>(a.rows - first_row) : a.rows_per_block;

  for (int r = warp; r < rows; r += kTokenWarps) {
    const T* const row = a.hidden + (first_row + r) * a.hidden_size;
    const Moments moments = row_moments(row, a.hidden_size, a.wide, a.norm, a.eps, WarpTeam{});
    for (int first = lane * kPack<T>; first < a.hidden_size; first += kWarpThreads * kPack<T>) {
      const Pack<T> x = normed_pack(load_pack(row, first, a.hidden_size, a.wide), a.norm_weight, a.norm_bias,
                                    first, a.hidden_size, a.wide, a.norm, moments);
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) normed[r * stride + first + i] = x.value[i];
    }
  }
  __syncthreads();

  float logits[kTokenRows] = {};  // of the id that is this lane's, for every row
  const int first_id = static_cast<int>(blockIdx.y) * kVocabularyBlock + warp * kWarpThreads;
  for (int i = 0; i < kWarpThreads && first_id + i < a.vocabulary; ++i) {
    const T* const weights = a.lm_head + static_cast<int64_t>(first_id + i) * a.hidden_size;
    float dots[kTokenRows] = {};
    for (int first = lane * kPack<T>; first < a.hidden_size; first += kWarpThreads * kPack<T>) {
      const Pack<T> w = load_pack(weights, first, a.hidden_size, a.wide);
#pragma unroll
      for (int r = 0; r < kTokenRows; ++r) {
        if (r < rows) {
#pragma unroll
          for (int k = 0; k < kPack<T>; ++k)
            dots[r] = fmaf(normed[r * stride + first + k], w.value[k], dots[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kTokenRows; ++r) {
      if (r < rows) {
        const float dot = warp_sum(dots[r]);
        if (lane == i) logits[r] = dot;
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kTokenRows; ++r) {
    if (r < rows) {
      const int64_t row = first_row + r;
      const int id = first_id + lane;
      TokenChoice choice = no_choice();
      if (id < a.vocabulary) {
        const Draw draw = make_draw(*a.seed, a.keys[row], kSiteToken, a.positions[row]);
        choice = single_choice(logits[r], id, draw, a.temperature);
      }
      choice = warp_merged(choice);
      if (lane == 0) warp_choices[warp * kTokenRows + r] = choice;
    }
  }
  __syncthreads();
  const int r = static_cast<int>(threadIdx.x);
  if (r < rows) {
    TokenChoice choice = warp_choices[r];
    for (int w = 1; w < kTokenWarps; ++w) choice = merged(choice, warp_choices[w * kTokenRows + r]);
    a.choices[(first_row + r) * gridDim.y + blockIdx.y] = choice;
  }
}

// One warp per row.
__global__ void __launch_bounds__(kWarpThreads) merge_token_kernel(MergeTokenArguments a) {
  const int64_t row = blockIdx.x;
  TokenChoice choice = no_choice();
  for (int b = static_cast<int>(threadIdx.x); b < a.blocks; b += kWarpThreads) {
    choice = merged(choice, a.choices[row * a.blocks + b]);
  }
  choice = warp_merged(choice);
  if (threadIdx.x == 0) {
    a.token[row] = choice.token < 0 ? 0 : choice.token;
    // The logarithm is made for positive numbers; a NaN in the row must reach its probability.
    const bool valid = choice.sum > 0.0f;
    a.logprob[row] =
        valid ? (choice.logit - choice.largest) - portable_log(choice.sum) : float_of_bits(0x7FC00000u);
  }
}

}  // namespace latent_ext
