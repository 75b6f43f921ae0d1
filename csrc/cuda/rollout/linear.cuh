// The linear layers of a phase, of both bodies at once.
//
// A block takes up to kColumnTiles tiles of 8 outputs for up to kRowTiles tiles of 16 rows at a time. Its
// eight warps share the inputs among them, so each reads rows and weights of its own, once; their sums meet
// in shared memory and are added in the order of the warps. Long layers with few outputs split their inputs
// among blocks, too, and leave partial sums that the next phase adds. Which inputs a warp takes follows from
// the layer's sizes alone, so a sum has the same bits for any number of rows, outputs beside it, or blocks.
#pragma once

#include "arguments.cuh"
#include "tiles.cuh"

namespace latent_ext {

constexpr int kRowTiles = 4, kColumnTiles = 6;
constexpr int kBlockRows = kRowTiles * kTileRows;
constexpr int kSplitInputs = 256;  // fewer are not worth a split

struct Pair {
  float x, y;
};

// Of every warp: the sums of all its tiles, two neighbouring outputs at a time.
constexpr size_t kLinearSharedBytes =
    sizeof(Pair) * kRolloutWarps * kRowTiles * kColumnTiles * 2 * kWarpThreads;

LATENT_EXT_HOST_DEVICE inline int split_count(int inputs) {
  const int splits = (inputs + kSplitInputs - 1) / kSplitInputs;
  return splits < kMaxSplits ? splits : kMaxSplits;
}

// Inputs of a split: a multiple of what any warp takes at a time.
LATENT_EXT_HOST_DEVICE inline int split_inputs(int inputs, int splits) {
  return ((inputs + splits - 1) / splits + 31) / 32 * 32;
}

// A linear layer of one body in a phase.
template <typename T>
struct LinearWork {
  const T* input;     // [rows, inputs]
  const T* weights;   // [outputs, inputs], or [2 outputs, inputs]: gates first
  const float* bias;  // [outputs] or [2 outputs], or null: not to be added here
  int64_t input_stride;
  int inputs, outputs;
  int splits;
  bool gated;
  bool wide;
  RolloutActivation activation;
  float* sums;  // [splits][capacity, outputs] or [rows, sums_stride]; or null
  int64_t sums_stride, split_stride;
  T* activations;  // [rows, activations_stride] or null
  int64_t activations_stride;

  // Where it is gated a gate's tile is followed by that of what it multiplies.
  __device__ __forceinline__ int tiles() const {
    return (outputs + kTileOutputs - 1) / kTileOutputs * (gated ? 2 : 1);
  }
  // The weights' row of an output of a tile; the first one for outputs past the end.
  __device__ __forceinline__ int weight_row(int tile, int output) const {
    const int column = (gated ? tile / 2 : tile) * kTileOutputs + output;
    if (column >= outputs) return 0;
    return gated && tile % 2 == 1 ? outputs + column : column;
  }
};

template <typename T>
using LaneSums = float[kRowTiles][kColumnTiles][4];

// This warp's inputs of `split`, for row tiles and column tiles from the given ones on.
template <typename T>
__device__ __forceinline__ void multiply_tiles(const LinearWork<T>& work, int64_t rows, int64_t first_row,
                                               int row_tiles, int first_tile, int column_tiles, int split,
                                               LaneSums<T>& sums) {
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  const int g = lane / 4, t = lane % 4;
  const int range = split_inputs(work.inputs, work.splits);
  const int split_end = (split + 1) * range < work.inputs ? (split + 1) * range : work.inputs;
  constexpr int kStep = kTileInputs<T>;
  const int per_warp = (range / kStep + kRolloutWarps - 1) / kRolloutWarps * kStep;
  const int begin = split * range + warp * per_warp;
  const int end = begin + per_warp < split_end ? begin + per_warp : split_end;
  const auto input_row = [&](int m, int half) {
    const int64_t row = first_row + m * kTileRows + half * 8 + g;
    return work.input + (row < rows ? row : rows - 1) * work.input_stride;
  };

  if constexpr (sizeof(T) == 2) {
    uint32_t weights[kColumnTiles];  // where the rows begin; plan.h keeps a layer below 2^32 weights
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const int row = n < column_tiles ? work.weight_row(first_tile + n, g) : 0;
      weights[n] = static_cast<uint32_t>(row) * static_cast<uint32_t>(work.inputs);
    }
#pragma unroll 1
    for (int k = begin + 8 * t; k < end + 8 * t; k += kStep) {
      Words w[kColumnTiles];
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        if (n < column_tiles) w[n] = load_weights(work.weights + weights[n], k, split_end, work.wide);
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (m >= row_tiles) continue;
        const Words low = load_inputs(input_row(m, 0), k, split_end, work.wide);
        const Words high = load_inputs(input_row(m, 1), k, split_end, work.wide);
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          if (n >= column_tiles) continue;
          multiply_halves(sums[m][n], low.word[0], high.word[0], low.word[1], high.word[1], w[n].word[0],
                          w[n].word[1]);
          multiply_halves(sums[m][n], low.word[2], high.word[2], low.word[3], high.word[3], w[n].word[2],
                          w[n].word[3]);
        }
      }
    }
  } else {
#pragma unroll 1
    for (int k = begin; k < end; k += kStep) {
      Words low[kRowTiles], high[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (m >= row_tiles) continue;
        low[m] = load_inputs(input_row(m, 0), k, split_end, work.wide);
        high[m] = load_inputs(input_row(m, 1), k, split_end, work.wide);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        if (n >= column_tiles) continue;
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          const T* const row =
              work.weights +
              static_cast<int64_t>(work.weight_row(first_tile + n, 2 * t + column)) * work.inputs;
          const Words w = load_weights(row, k, split_end, work.wide);
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            if (m >= row_tiles) continue;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float weight = float_of_bits(w.word[i]);
              sums[m][n][column] = fmaf(float_of_bits(low[m].word[i]), weight, sums[m][n][column]);
              sums[m][n][2 + column] = fmaf(float_of_bits(high[m].word[i]), weight, sums[m][n][2 + column]);
            }
          }
        }
      }
    }
  }
}

__device__ __forceinline__ Pair& pair_of(Pair* shared, int warp, int m, int n, int half, int lane) {
  return shared[(((warp * kRowTiles + m) * kColumnTiles + n) * 2 + half) * kWarpThreads + lane];
}

__device__ __forceinline__ Pair sum_of_warps(Pair* shared, int m, int n, int half, int lane) {
  Pair sum = pair_of(shared, 0, m, n, half, lane);
#pragma unroll
  for (int warp = 1; warp < kRolloutWarps; ++warp) {
    const Pair next = pair_of(shared, warp, m, n, half, lane);
    sum.x += next.x;
    sum.y += next.y;
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ void store_output(const LinearWork<T>& work, int split, int64_t row, int column,
                                             float value, float gate) {
  if (column >= work.outputs) return;
  if (work.bias != nullptr) value += work.bias[(work.gated ? work.outputs : 0) + column];
  if (work.gated) {
    if (work.bias != nullptr) gate += work.bias[column];
    value = activated(work.activation, gate) * value;
  } else {
    value = activated(work.activation, value);
  }
  if (work.sums != nullptr) work.sums[split * work.split_stride + row * work.sums_stride + column] = value;
  if (work.activations != nullptr) {
    store_rounded(work.activations + row * work.activations_stride + column, value);
  }
}

// One block's share of a layer. All threads of the block; shared holds kLinearSharedBytes.
template <typename T>
__device__ void linear_block(const LinearWork<T>& work, int64_t rows, int64_t first_row, int first_tile,
                             int column_tiles, int split, Pair* shared) {
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  const int64_t left = rows - first_row < kBlockRows ? rows - first_row : kBlockRows;
  const int row_tiles = static_cast<int>((left + kTileRows - 1) / kTileRows);
  LaneSums<T> sums = {};
  multiply_tiles(work, rows, first_row, row_tiles, first_tile, column_tiles, split, sums);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      if (m >= row_tiles || n >= column_tiles) continue;
      pair_of(shared, warp, m, n, 0, lane) = {sums[m][n][0], sums[m][n][1]};
      pair_of(shared, warp, m, n, 1, lane) = {sums[m][n][2], sums[m][n][3]};
    }
  }
  __syncthreads();
  const int columns = work.gated ? column_tiles / 2 : column_tiles;
  for (int item = threadIdx.x; item < row_tiles * columns * 2 * kWarpThreads; item += kRolloutThreads) {
    const int of_lane = item % kWarpThreads, half = item / kWarpThreads % 2;
    const int n = item / (2 * kWarpThreads) % columns, m = item / (2 * kWarpThreads) / columns;
    const int64_t row = first_row + m * kTileRows + half * 8 + of_lane / 4;
    if (row >= rows) continue;
    Pair gate = {0.0f, 0.0f};
    if (work.gated) gate = sum_of_warps(shared, m, 2 * n, half, of_lane);
    const Pair value = sum_of_warps(shared, m, work.gated ? 2 * n + 1 : n, half, of_lane);
    const int column = (first_tile / (work.gated ? 2 : 1) + n) * kTileOutputs + of_lane % 4 * 2;
    store_output(work, split, row, column, value.x, gate.x);
    store_output(work, split, row, column + 1, value.y, gate.y);
  }
  __syncthreads();
}

// How the blocks of a grid share the layers of up to two bodies: as many column tiles each as one round
// needs.
struct LinearShares {
  int column_tiles;
  int units[2];
  int groups[2];  // of column tiles
};

template <typename T>
__device__ __forceinline__ LinearShares share_linears(const LinearWork<T> (&works)[2],
                                                      const bool (&active)[2], int64_t rows) {
  const int row_blocks = static_cast<int>((rows + kBlockRows - 1) / kBlockRows);
  int64_t tiles = 0;
  bool gated = false;
  for (int b = 0; b < 2; ++b) {
    if (!active[b]) continue;
    tiles += static_cast<int64_t>(works[b].tiles()) * works[b].splits * row_blocks;
    gated |= works[b].gated;
  }
  int64_t per_block = (tiles + gridDim.x - 1) / gridDim.x;
  if (gated) per_block = (per_block + 1) / 2 * 2;
  LinearShares shares = {
      static_cast<int>(per_block < kColumnTiles ? per_block : kColumnTiles), {0, 0}, {0, 0}};
  for (int b = 0; b < 2; ++b) {
    if (!active[b]) continue;
    shares.groups[b] = (works[b].tiles() + shares.column_tiles - 1) / shares.column_tiles;
    shares.units[b] = shares.groups[b] * works[b].splits * row_blocks;
  }
  return shares;
}

template <typename T>
__device__ void run_linears(const LinearWork<T> (&works)[2], const bool (&active)[2], int64_t rows,
                            unsigned char* shared) {
  const LinearShares shares = share_linears(works, active, rows);
  for (int unit = blockIdx.x; unit < shares.units[0] + shares.units[1]; unit += gridDim.x) {
    const int b = unit < shares.units[0] ? 0 : 1;
    const int own = b == 0 ? unit : unit - shares.units[0];
    const LinearWork<T>& work = works[b];
    const int first_tile = own % shares.groups[b] * shares.column_tiles;
    const int split = own / shares.groups[b] % work.splits;
    const int64_t first_row = static_cast<int64_t>(own / shares.groups[b] / work.splits) * kBlockRows;
    const int left = work.tiles() - first_tile;
    linear_block(work, rows, first_row, first_tile, left < shares.column_tiles ? left : shares.column_tiles,
                 split, reinterpret_cast<Pair*>(shared));
  }
}

// Brings the weights that this block will read first in a later phase into the L2 cache.
template <typename T>
__device__ void prefetch_linears(const LinearWork<T> (&works)[2], const bool (&active)[2], int64_t rows) {
#if defined(__CUDACC__)
  const LinearShares shares = share_linears(works, active, rows);
  const int unit = blockIdx.x;
  if (unit >= shares.units[0] + shares.units[1]) return;
  const int b = unit < shares.units[0] ? 0 : 1;
  const int own = b == 0 ? unit : unit - shares.units[0];
  const LinearWork<T>& work = works[b];
  const int first_tile = own % shares.groups[b] * shares.column_tiles;
  const int split = own / shares.groups[b] % work.splits;
  const int range = split_inputs(work.inputs, work.splits);
  const int inputs = work.inputs - split * range < range ? work.inputs - split * range : range;
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  const int lines = (inputs + kLine - 1) / kLine;
  for (int item = threadIdx.x; item < shares.column_tiles * kTileOutputs * lines; item += kRolloutThreads) {
    const int tile = first_tile + item / lines / kTileOutputs;
    if (tile >= work.tiles()) break;
    const int row = work.weight_row(tile, item / lines % kTileOutputs);
    const T* const at =
        work.weights + static_cast<int64_t>(row) * work.inputs + split * range + item % lines * kLine;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
  }
#else
  static_cast<void>(works);
  static_cast<void>(active);
  static_cast<void>(rows);
#endif
}

}  // namespace latent_ext
