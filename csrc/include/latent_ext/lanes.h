// The few operations the shared formulas need, for one lane: float and uint32_t. A 16-lane type offers the
// same names (csrc/cpu/vec16.h), found by argument-dependent lookup, so philox.h, elementary.h, normal.h,
// gumbel.h and dropout.h are each written once. Signed values travel as the two's complement bits of the
// unsigned type.
#pragma once

#include "latent_ext/platform.h"

LATENT_EXT_NAMESPACE_BEGIN

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE uint32_t bits_of(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
#endif
}

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE float float_of_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
#endif
}

// Rounds to nearest even.
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE float float_of_int(uint32_t two_complement) {
  return static_cast<float>(static_cast<int32_t>(two_complement));
}

// For |x| < 2^31; NaN gives 0, as the value it belongs to stays NaN anyway.
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE uint32_t floor_to_int(float x) {
  const int32_t truncated = x == x ? static_cast<int32_t>(x) : 0;
  return static_cast<uint32_t>(truncated - (static_cast<float>(truncated) > x ? 1 : 0));
}

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE float select(bool condition, float yes, float no) {
  return condition ? yes : no;
}

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE uint32_t select(bool condition, uint32_t yes, uint32_t no) {
  return condition ? yes : no;
}

// high:low = 64-bit product.
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE void multiply_wide(uint32_t multiplier, uint32_t x, uint32_t& high,
                                                            uint32_t& low) {
  const uint64_t product = static_cast<uint64_t>(multiplier) * x;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
}

LATENT_EXT_NAMESPACE_END
