// LayerNorm and RMSNorm as one formula: y = (x - mean) * inverse_deviation * weight + bias, where RMSNorm has
// mean 0 and no bias. Reductions use 16 virtual lanes (element i goes to lane i % 16, lanes are then added
// pairwise 8, 4, 2, 1) and no fma, so that every ISA level gives the same bits.
#pragma once

#include "latent_ext/lanes.h"

// One type for launchers and kernels of every ISA level.
namespace latent_ext {
enum class NormKind : int32_t { kNone = 0, kLayer = 1, kRms = 2 };
}

LATENT_EXT_NAMESPACE_BEGIN

constexpr int kVirtualLanes = 16;

struct Moments {
  float mean;
  float inverse_deviation;  // 1 / sqrt(variance + eps), or 1 / sqrt(mean square + eps)
};

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE float inverse_deviation(float sum_of_squares, int64_t hidden,
                                                                 float eps) {
  return 1.0f / square_root(sum_of_squares / static_cast<float>(hidden) + eps);
}

template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float standardize(Float x, const Moments& moments) {
  return (x - Float(moments.mean)) * Float(moments.inverse_deviation);
}

LATENT_EXT_NAMESPACE_END
