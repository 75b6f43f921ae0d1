// LatentRM head, cumulative score and the per-question top-k in one launch: one block per question.
//
// A warp scores a row at a time, so a score depends neither on the block size nor on the question's other
// rows. The top-k counts for each row how many rows of its question are better; the count is its rank. That
// needs no sort, orders ties and NaN exactly, and is cheap for the tens to hundreds of trajectories a
// question has.
#pragma once

#include "latent_ext/topk_order.h"
#include "reduce.cuh"
#include "row.cuh"

namespace latent_ext {

template <typename T>
struct ScoreAndPruneArguments {
  const T* hidden;                  // [rows, hidden_size]
  const T* weight;                  // [hidden_size]
  const T* bias;                    // [1] or null
  const float* cumulative;          // [rows]
  const int64_t* question_offsets;  // [questions + 1]
  float* step_score;                // [rows]
  float* total;                     // [rows]
  int64_t* survivors;               // [questions, keep]
  int64_t rows;
  int64_t keep;
  int hidden_size;
  bool wide;  // every row can be read in 16-byte packs
};

constexpr int kScoreAndPruneThreads = 512;

template <typename T>
__device__ __forceinline__ float warp_dot(const T* row, const T* weight, int hidden, bool wide, int lane) {
  float dot = 0.0f;
  // Left alone, the compiler unrolls until it spills.
#pragma unroll 2
  for (int first = lane * kPack<T>; first < hidden; first += kWarpThreads * kPack<T>) {
    const Pack<T> x = load_pack(row, first, hidden, wide), w = load_pack(weight, first, hidden, wide);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) dot = fmaf(x.value[i], w.value[i], dot);
  }
  return warp_sum(dot);
}

__device__ __forceinline__ int64_t clamp_row(int64_t row, int64_t low, int64_t high) {
  return row < low ? low : row > high ? high : row;
}

template <typename T>
__global__ void __launch_bounds__(kScoreAndPruneThreads, 1)
    score_and_prune_kernel(ScoreAndPruneArguments<T> a) {
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads,
            warps = blockDim.x / kWarpThreads;
  // The host cannot look at offsets without waiting for the device; wrong ones must at least stay inside the
  // tensors.
  const int64_t question = blockIdx.x;
  const int64_t begin = clamp_row(a.question_offsets[question], 0, a.rows);
  const int64_t end = clamp_row(a.question_offsets[question + 1], begin, a.rows);
  const bool first_question = question == 0, last_question = question + 1 == static_cast<int64_t>(gridDim.x);

  for (int64_t row = begin + warp; row < end; row += warps) {
    const float dot = warp_dot(a.hidden + row * a.hidden_size, a.weight, a.hidden_size, a.wide, lane);
    if (lane == 0) {
      const float score = a.bias == nullptr ? dot : dot + to_float(*a.bias);
      a.step_score[row] = score;
      a.total[row] = a.cumulative[row] + score;
    }
  }
  const float nan = float_of_bits(0x7FC00000u);
  if (first_question)
    for (int64_t row = threadIdx.x; row < begin; row += blockDim.x) a.step_score[row] = a.total[row] = nan;
  if (last_question)
    for (int64_t row = end + threadIdx.x; row < a.rows; row += blockDim.x)
      a.step_score[row] = a.total[row] = nan;
  for (int64_t k = end - begin + threadIdx.x; k < a.keep; k += blockDim.x)
    a.survivors[question * a.keep + k] = -1;
  __syncthreads();

  for (int64_t row = begin + warp; row < end; row += warps) {
    const float total = a.total[row];
    int64_t rank = 0;
    for (int64_t base = begin; base < end && rank < a.keep; base += kWarpThreads) {
      const int64_t other = base + lane;
      const bool better = other < end && ranks_before(a.total[other], other, total, row);
      rank += __popc(__ballot_sync(kWholeWarp, better));
    }
    if (lane == 0 && rank < a.keep) a.survivors[question * a.keep + rank] = row;
  }
}

}  // namespace latent_ext
