// residual + dropout(branch), then LayerNorm or RMSNorm: one block per row, one launch for what PyTorch does
// in three.
//
// The row is read once. Its sum, rounded to the storage type, stays in shared memory for the moments and the
// affine pass (each thread reads back only what it wrote, so no barrier guards it); a row too long for shared
// memory is read back from the residual output instead, with the same values.
#pragma once

#include "draw.cuh"
#include "row_norm.cuh"

namespace latent_ext {

template <typename T>
struct DropoutAddNormArguments {
  const T* branch;           // [rows, hidden]
  const T* residual;         // [rows, hidden]
  const T* weight;           // [hidden] or null
  const T* bias;             // [hidden] or null
  const int64_t* keys;       // [rows]
  const int64_t* positions;  // [rows]
  const int64_t* seed;       // [1], read here so that a captured graph can be replayed with another seed
  T* residual_out;           // [rows, hidden]
  T* normed;                 // [rows, hidden]
  int hidden;
  uint32_t site;
  Dropout dropout;
  float eps;
  NormKind norm;
  bool wide;           // every row can be read in 16-byte packs
  bool row_in_shared;  // dynamic shared memory holds a row
};

struct DropoutAddNormShared {
  float warp_sums[kMomentSums * kMaxWarps];
  // the row follows, 16-byte aligned
};

template <typename T>
size_t dropout_add_norm_shared_bytes(int hidden, bool row_in_shared) {
  const size_t packs = (static_cast<size_t>(hidden) + kPack<T> - 1) / kPack<T>;
  return sizeof(DropoutAddNormShared) + (row_in_shared ? packs * 16 : 0);
}

// Within what a block can have on every architecture without asking for it.
template <typename T>
bool dropout_add_norm_row_fits(int hidden) {
  return dropout_add_norm_shared_bytes<T>(hidden, true) <= kPlainSharedBytes;
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads) dropout_add_norm_kernel(DropoutAddNormArguments<T> a) {
  auto* shared = reinterpret_cast<DropoutAddNormShared*>(dynamic_shared());
  const int64_t row = blockIdx.x, offset = row * a.hidden;
  const Draw draw = make_draw(*a.seed, a.keys[row], a.site, a.positions[row]);
  T* const sum_row = a.row_in_shared ? reinterpret_cast<T*>(shared + 1) : a.residual_out + offset;
  const bool sum_wide = a.row_in_shared || a.wide;
  const int begin = static_cast<int>(threadIdx.x) * kPack<T>,
            stride = static_cast<int>(blockDim.x) * kPack<T>;

  for (int first = begin; first < a.hidden; first += stride) {
    Pack<T> sum = load_pack(a.branch + offset, first, a.hidden, a.wide);
    const Pack<T> residual = load_pack(a.residual + offset, first, a.hidden, a.wide);
    if (a.dropout.active) drop_pack(sum, draw, first, a.dropout);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) sum.value[i] = residual.value[i] + sum.value[i];
    store_pack(a.residual_out + offset, first, a.hidden, a.wide, sum);
    if (a.row_in_shared) store_pack(sum_row, first, a.hidden, sum_wide, sum);
  }

  const Moments moments =
      row_moments(sum_row, a.hidden, sum_wide, a.norm, a.eps, BlockTeam{shared->warp_sums});
  for (int first = begin; first < a.hidden; first += stride) {
    const Pack<T> x = load_pack(sum_row, first, a.hidden, sum_wide);
    store_pack(a.normed + offset, first, a.hidden, a.wide,
               normed_pack(x, a.weight, a.bias, first, a.hidden, a.wide, a.norm, moments));
  }
}

}  // namespace latent_ext
