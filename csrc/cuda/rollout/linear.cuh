// The linear layers of a phase, of both bodies at once.
//
// A block takes up to kColumnTiles tiles of 8 outputs for up to kRowTiles tiles of 16 rows at a time. Its
// eight warps share the inputs among them, so each reads rows and weights of its own, once; their sums meet
// in shared memory and are added in the order of the warps. Long layers with few outputs split their inputs
// among blocks, too, and leave partial sums that the next phase adds. Which inputs a warp takes follows from
// the layer's sizes alone, so a sum has the same bits for any number of rows, outputs beside it, or blocks.
//
// In bf16 each warp keeps several chunks of 32 inputs under way in a ring in shared memory. A lane copies the
// 16 bytes of each row that it multiplies itself, so nothing but its own wait orders them. The weights of a
// block's next layers are copied before the grid has finished what comes between.
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

// What 32 inputs of 8 rows take: 16 bytes of every lane.
constexpr int kPieceBytes = 16 * kWarpThreads;
// A warp's share of the ring holds at least one chunk of all its rows and weights, at most kMostChunks.
constexpr int kLargestChunk = (kColumnTiles + 2 * kRowTiles) * kPieceBytes;
constexpr int kMostChunks = kMostPendingCopies + 1;

// Row tiles whose sums meet in shared memory at a time: of every warp, two neighbouring outputs at a time.
// The ring has been read by then, and gives its memory.
constexpr int kMeetingTiles = 2;
constexpr size_t kMeetingBytes =
    sizeof(Pair) * kRolloutWarps * kMeetingTiles * kColumnTiles * 2 * kWarpThreads;
constexpr size_t kSmallestRing = static_cast<size_t>(kRolloutWarps) * kLargestChunk;
static_assert(kMeetingBytes <= kSmallestRing, "the ring lends its memory to the sums");

// Shared memory of the linear layers.
struct Ring {
  unsigned char* bytes;
  int per_warp;  // a multiple of kPieceBytes
};

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

// The inputs of a split that a warp takes: [begin, end), in chunks of kTileInputs; behind `limit` there are
// none.
struct WarpInputs {
  int begin, end, limit;
};

template <typename T>
__device__ __forceinline__ WarpInputs warp_inputs(const LinearWork<T>& work, int split) {
  constexpr int kStep = kTileInputs<T>;
  const int warp = threadIdx.x / kWarpThreads;
  const int range = split_inputs(work.inputs, work.splits);
  const int limit = (split + 1) * range < work.inputs ? (split + 1) * range : work.inputs;
  const int per_warp = (range / kStep + kRolloutWarps - 1) / kRolloutWarps * kStep;
  const int begin = split * range + warp * per_warp;
  return {begin, begin + per_warp < limit ? begin + per_warp : limit, limit};
}

// What a block does at a time.
struct LinearUnit {
  int64_t first_row;
  int row_tiles, first_tile, column_tiles, split;
};

// This warp's part of a unit by way of the ring; bf16 rows that can be read 16 bytes at a time.
class StagedProduct {
 public:
  __device__ StagedProduct(const LinearWork<BFloat16>& work, int64_t rows, const LinearUnit& unit,
                           const Ring& ring)
      : work_(work), rows_(rows), unit_(unit), inputs_(warp_inputs(work, unit.split)) {
    const int lane = threadIdx.x % kWarpThreads;
    bytes_ = ring.bytes + static_cast<int>(threadIdx.x) / kWarpThreads * ring.per_warp + 16 * lane;
    chunk_bytes_ = (unit.column_tiles + 2 * unit.row_tiles) * kPieceBytes;
    chunks_ = inputs_.end > inputs_.begin ? (inputs_.end - inputs_.begin + 31) / 32 : 0;
    depth_ = ring.per_warp / chunk_bytes_;
    if (depth_ > kMostChunks) depth_ = kMostChunks;
    if (depth_ > chunks_) depth_ = chunks_;
  }

  // The weights of the chunks that the ring holds; they need nothing of what other blocks are doing.
  __device__ void stage_weights() const {
#pragma unroll 1
    for (int chunk = 0; chunk < depth_; ++chunk) copy_weights(chunk);
    commit_copies();
  }

  __device__ __forceinline__ void multiply(bool weights_staged, LaneSums<BFloat16>& sums) const {
    for (int chunk = 0; chunk < depth_; ++chunk) {
      if (!weights_staged) copy_weights(chunk);
      copy_rows(chunk);
      commit_copies();
    }
    int slot = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      const int committed = depth_ + chunk < chunks_ ? depth_ + chunk : chunks_;
      wait_copies(committed - chunk - 1);
      multiply_chunk(bytes_ + slot * chunk_bytes_, sums);
      if (chunk + depth_ < chunks_) {
        copy_weights(chunk + depth_);
        copy_rows(chunk + depth_);
        commit_copies();
      }
      if (++slot == depth_) slot = 0;
    }
  }

 private:
  // The place of piece `piece` of a chunk, for this lane.
  __device__ __forceinline__ unsigned char* place(int chunk, int piece) const {
    return bytes_ + chunk % depth_ * chunk_bytes_ + piece * kPieceBytes;
  }
  // First of this lane's inputs of a chunk.
  __device__ __forceinline__ int input(int chunk) const {
    return inputs_.begin + 32 * chunk + 8 * static_cast<int>(threadIdx.x % 4);
  }

  __device__ __forceinline__ void copy_weights(int chunk) const {
    const int g = threadIdx.x % kWarpThreads / 4, k = input(chunk);
    const bool there = k < inputs_.limit;
    for (int n = 0; n < unit_.column_tiles; ++n) {
      const int64_t row = work_.weight_row(unit_.first_tile + n, g);
      copy_async(place(chunk, n), work_.weights + row * work_.inputs + (there ? k : 0), there);
    }
  }

  __device__ __forceinline__ void copy_rows(int chunk) const {
    const int g = threadIdx.x % kWarpThreads / 4, k = input(chunk);
    const bool there = k < inputs_.limit;
    for (int half = 0; half < 2 * unit_.row_tiles; ++half) {
      const int64_t row = unit_.first_row + half * 8 + g;
      const BFloat16* const from = work_.input + (row < rows_ ? row : rows_ - 1) * work_.input_stride;
      copy_async(place(chunk, unit_.column_tiles + half), from + (there ? k : 0), there);
    }
  }

  __device__ __forceinline__ void multiply_chunk(const unsigned char* chunk, LaneSums<BFloat16>& sums) const {
    const auto piece = [&](int index) {
      return *reinterpret_cast<const uint4*>(chunk + index * kPieceBytes);
    };
    uint4 w[kColumnTiles];
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      if (n < unit_.column_tiles) w[n] = piece(n);
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      if (m >= unit_.row_tiles) continue;
      const uint4 low = piece(unit_.column_tiles + 2 * m), high = piece(unit_.column_tiles + 2 * m + 1);
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        if (n >= unit_.column_tiles) continue;
        multiply_halves(sums[m][n], low.x, high.x, low.y, high.y, w[n].x, w[n].y);
        multiply_halves(sums[m][n], low.z, high.z, low.w, high.w, w[n].z, w[n].w);
      }
    }
  }

  const LinearWork<BFloat16>& work_;
  int64_t rows_;
  const LinearUnit unit_;
  WarpInputs inputs_;
  unsigned char* bytes_;  // of this lane, in the first piece
  int chunk_bytes_, chunks_, depth_;
};

// This warp's part of a unit without the ring: fp32, and rows that cannot be read 16 bytes at a time.
template <typename T>
__device__ __forceinline__ void multiply_direct(const LinearWork<T>& work, int64_t rows,
                                                const LinearUnit& unit, LaneSums<T>& sums) {
  const int lane = threadIdx.x % kWarpThreads, g = lane / 4, t = lane % 4;
  const int row_tiles = unit.row_tiles, column_tiles = unit.column_tiles, first_tile = unit.first_tile;
  const int64_t first_row = unit.first_row;
  constexpr int kStep = kTileInputs<T>;
  const WarpInputs inputs = warp_inputs(work, unit.split);
  const int begin = inputs.begin, end = inputs.end, split_end = inputs.limit;
  const auto input_row = [&](int m, int half) {
    const int64_t row = first_row + m * kTileRows + half * 8 + g;
    return work.input + (row < rows ? row : rows - 1) * work.input_stride;
  };

  if constexpr (sizeof(T) == 2) {
#pragma unroll 1
    for (int k = begin + 8 * t; k < end + 8 * t; k += kStep) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (m >= row_tiles) continue;
        const Words low = load_inputs(input_row(m, 0), k, split_end, work.wide);
        const Words high = load_inputs(input_row(m, 1), k, split_end, work.wide);
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          if (n >= column_tiles) continue;
          const int64_t row = work.weight_row(first_tile + n, g);
          const Words w = load_weights(work.weights + row * work.inputs, k, split_end, work.wide);
          multiply_halves(sums[m][n], low.word[0], high.word[0], low.word[1], high.word[1], w.word[0],
                          w.word[1]);
          multiply_halves(sums[m][n], low.word[2], high.word[2], low.word[3], high.word[3], w.word[2],
                          w.word[3]);
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
  return shared[(((warp * kMeetingTiles + m) * kColumnTiles + n) * 2 + half) * kWarpThreads + lane];
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

// One unit of a layer, by all threads of the block. A function of its own: inlined into the persistent
// kernel's loop, the compiler moves so much out of the loop that the sums no longer fit the registers.
template <typename T>
__device__ __noinline__ void linear_unit(const LinearWork<T>& work, int64_t rows, const LinearUnit& unit,
                                         const Ring& ring, bool weights_staged) {
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  LaneSums<T> sums = {};
  if constexpr (sizeof(T) == 2) {
    if (work.wide) {
      StagedProduct(work, rows, unit, ring).multiply(weights_staged, sums);
    } else {
      multiply_direct(work, rows, unit, sums);
    }
  } else {
    multiply_direct(work, rows, unit, sums);
  }
  Pair* const shared = reinterpret_cast<Pair*>(ring.bytes);
  const int columns = work.gated ? unit.column_tiles / 2 : unit.column_tiles;
#pragma unroll
  for (int first = 0; first < kRowTiles; first += kMeetingTiles) {
    if (first >= unit.row_tiles) continue;
    __syncthreads();  // the ring, or the sums before, have been read
#pragma unroll
    for (int m = 0; m < kMeetingTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        if (first + m >= unit.row_tiles || n >= unit.column_tiles) continue;
        const float (&tile)[4] = sums[first + m][n];
        pair_of(shared, warp, m, n, 0, lane) = {tile[0], tile[1]};
        pair_of(shared, warp, m, n, 1, lane) = {tile[2], tile[3]};
      }
    }
    __syncthreads();
    const int tiles = unit.row_tiles - first < kMeetingTiles ? unit.row_tiles - first : kMeetingTiles;
    for (int item = threadIdx.x; item < tiles * columns * 2 * kWarpThreads; item += kRolloutThreads) {
      const int of_lane = item % kWarpThreads, half = item / kWarpThreads % 2;
      const int n = item / (2 * kWarpThreads) % columns, m = item / (2 * kWarpThreads) / columns;
      const int64_t row = unit.first_row + (first + m) * kTileRows + half * 8 + of_lane / 4;
      if (row >= rows) continue;
      Pair gate = {0.0f, 0.0f};
      if (work.gated) gate = sum_of_warps(shared, m, 2 * n, half, of_lane);
      const Pair value = sum_of_warps(shared, m, work.gated ? 2 * n + 1 : n, half, of_lane);
      const int column = (unit.first_tile / (work.gated ? 2 : 1) + n) * kTileOutputs + of_lane % 4 * 2;
      store_output(work, unit.split, row, column, value.x, gate.x);
      store_output(work, unit.split, row, column + 1, value.y, gate.y);
    }
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

// The body and the unit with this number.
template <typename T>
__device__ __forceinline__ LinearUnit unit_of(const LinearWork<T> (&works)[2], const LinearShares& shares,
                                              int64_t rows, int number, int& body) {
  body = number < shares.units[0] ? 0 : 1;
  const int own = body == 0 ? number : number - shares.units[0];
  const LinearWork<T>& work = works[body];
  const int groups = shares.groups[body];
  LinearUnit unit;
  unit.first_tile = own % groups * shares.column_tiles;
  unit.split = own / groups % work.splits;
  unit.first_row = static_cast<int64_t>(own / groups / work.splits) * kBlockRows;
  const int tiles_left = work.tiles() - unit.first_tile;
  unit.column_tiles = tiles_left < shares.column_tiles ? tiles_left : shares.column_tiles;
  const int64_t rows_left = rows - unit.first_row < kBlockRows ? rows - unit.first_row : kBlockRows;
  unit.row_tiles = static_cast<int>((rows_left + kTileRows - 1) / kTileRows);
  return unit;
}

// first_staged: stage_linears has been called for this phase.
template <typename T>
__device__ void run_linears(const LinearWork<T> (&works)[2], const bool (&active)[2], int64_t rows,
                            const Ring& ring, bool first_staged) {
  const LinearShares shares = share_linears(works, active, rows);
  for (int number = blockIdx.x; number < shares.units[0] + shares.units[1]; number += gridDim.x) {
    int body;
    const LinearUnit unit = unit_of(works, shares, rows, number, body);
    linear_unit(works[body], rows, unit, ring, first_staged && number == static_cast<int>(blockIdx.x));
  }
}

// The weights of this block's first unit of a later phase into its ring, as far as they fit; nothing may use
// the ring until then.
template <typename T>
__device__ __noinline__ void stage_linears(const LinearWork<T> (&works)[2], const bool (&active)[2],
                                           int64_t rows, const Ring& ring) {
  if constexpr (sizeof(T) == 2) {
    const LinearShares shares = share_linears(works, active, rows);
    const int number = blockIdx.x;
    if (number >= shares.units[0] + shares.units[1]) return;
    int body;
    const LinearUnit unit = unit_of(works, shares, rows, number, body);
    if (works[body].wide) StagedProduct(works[body], rows, unit, ring).stage_weights();
  }
}

// Brings the weights of this block's first unit of a later phase into the L2 cache.
template <typename T>
__device__ __noinline__ void prefetch_linears(const LinearWork<T> (&works)[2], const bool (&active)[2],
                                              int64_t rows) {
#if defined(__CUDACC__)
  const LinearShares shares = share_linears(works, active, rows);
  const int number = blockIdx.x;
  if (number >= shares.units[0] + shares.units[1]) return;
  int body;
  const LinearUnit unit = unit_of(works, shares, rows, number, body);
  const LinearWork<T>& work = works[body];
  const int range = split_inputs(work.inputs, work.splits), begin = unit.split * range;
  const int inputs = work.inputs - begin < range ? work.inputs - begin : range;
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  const int lines = (inputs + kLine - 1) / kLine;
  for (int item = threadIdx.x; item < unit.column_tiles * kTileOutputs * lines; item += kRolloutThreads) {
    const int64_t row =
        work.weight_row(unit.first_tile + item / lines / kTileOutputs, item / lines % kTileOutputs);
    const T* const at = work.weights + row * work.inputs + begin + item % lines * kLine;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
  }
#else
  static_cast<void>(works);
  static_cast<void>(active);
  static_cast<void>(rows);
#endif
}

}  // namespace latent_ext
