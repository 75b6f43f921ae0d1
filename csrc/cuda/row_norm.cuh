// LayerNorm and RMSNorm of one row by a team of threads: the moments here, the affine part where the row is
// next read.
#pragma once

#include "latent_ext/norm.h"
#include "reduce.cuh"
#include "row.cuh"

namespace latent_ext {

constexpr int kMomentSums = 2;  // slots 0 and 1 of the team

// Two passes, as the definition reads: var is the mean of (x - mean)^2, which does not cancel for rows far
// from 0.
template <typename T, typename Team>
__device__ __forceinline__ Moments row_moments(const T* row, int hidden, bool wide, NormKind norm, float eps,
                                               const Team& team) {
  if (norm == NormKind::kNone) return {0.0f, 1.0f};
  const int begin = team.thread() * kPack<T>, stride = team.threads() * kPack<T>;
  float mean = 0.0f;
  if (norm == NormKind::kLayer) {
    float sum = 0.0f;
    for (int first = begin; first < hidden; first += stride) {
      const Pack<T> x = load_pack(row, first, hidden, wide);
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) sum += x.value[i];
    }
    mean = team.sum(sum, 0) / static_cast<float>(hidden);
  }
  float squares = 0.0f;
  for (int first = begin; first < hidden; first += stride) {
    const Pack<T> x = load_pack(row, first, hidden, wide);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      const float centered = first + i < hidden ? x.value[i] - mean : 0.0f;
      squares += centered * centered;
    }
  }
  return {mean, inverse_deviation(team.sum(squares, 1), hidden, eps)};
}

// One pack of the normed row, in fp32; 0 past the end of the row. weight, bias: [hidden] or null.
template <typename T>
__device__ __forceinline__ Pack<T> normed_pack(Pack<T> x, const T* weight, const T* bias, int first,
                                               int hidden, bool wide, NormKind norm, const Moments& moments) {
  if (norm == NormKind::kNone) return x;
  Pack<T> w, b;
  if (weight != nullptr) w = load_pack(weight, first, hidden, wide);
  if (bias != nullptr) b = load_pack(bias, first, hidden, wide);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    float y = standardize(x.value[i], moments);
    if (weight != nullptr) y = y * w.value[i];
    if (bias != nullptr) y = y + b.value[i];
    x.value[i] = first + i < hidden ? y : 0.0f;
  }
  return x;
}

}  // namespace latent_ext
