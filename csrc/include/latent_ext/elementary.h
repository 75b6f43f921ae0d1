// log and exp in fp32 from +, -, x and integer operations in one fixed order (Cephes logf and expf, S.
// Moshier), so that every ISA level, the SIMT shim and CUDA give the same bits. Compile without contraction
// (-ffp-contract=off, -fmad=false).
#pragma once

#include "latent_ext/lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

// log(1 + f) + exponent * log(2) for sqrt(1/2) - 1 <= f < sqrt(2) - 1.
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float log_of_reduced(Float f, Float exponent) {
  const Float z = f * f;
  Float y = Float(7.0376836292e-2f);
  y = y * f + Float(-1.1514610310e-1f);
  y = y * f + Float(1.1676998740e-1f);
  y = y * f + Float(-1.2420140846e-1f);
  y = y * f + Float(1.4249322787e-1f);
  y = y * f + Float(-1.6668057665e-1f);
  y = y * f + Float(2.0000714765e-1f);
  y = y * f + Float(-2.4999993993e-1f);
  y = y * f + Float(3.3333331174e-1f);
  y = (y * f) * z;
  y = y + Float(-2.12194440e-4f) * exponent;
  y = y - Float(0.5f) * z;
  return (f + y) + Float(0.693359375f) * exponent;
}

// For positive normal x.
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float portable_log(Float x) {
  const auto bits = bits_of(x);
  Float exponent = float_of_int((bits >> 23) - 126u);
  const Float mantissa = float_of_bits((bits & 0x007FFFFFu) | 0x3F000000u);  // in [0.5, 1)
  const auto below = mantissa < Float(0.70710678f);
  exponent = select(below, exponent - Float(1.0f), exponent);
  const Float f = select(below, (mantissa + mantissa) - Float(1.0f), mantissa - Float(1.0f));
  return log_of_reduced(f, exponent);
}

constexpr float kExpLowest = -87.3f;
constexpr float kExpHighest = 88.7f;

// x is clamped to [-87.3, 88.7]; above 88.37 the power of two overflows and the result is +inf. NaN stays
// NaN.
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float portable_exp(Float x) {
  x = select(x < Float(kExpLowest), Float(kExpLowest), x);
  x = select(x > Float(kExpHighest), Float(kExpHighest), x);
  const auto exponent = floor_to_int(Float(1.44269504088896341f) * x + Float(0.5f));
  const Float n = float_of_int(exponent);
  x = x - n * Float(0.693359375f);
  x = x - n * Float(-2.12194440e-4f);
  const Float z = x * x;
  Float y = Float(1.9875691500e-4f);
  y = y * x + Float(1.3981999507e-3f);
  y = y * x + Float(8.3334519073e-3f);
  y = y * x + Float(4.1665795894e-2f);
  y = y * x + Float(1.6666665459e-1f);
  y = y * x + Float(5.0000001201e-1f);
  y = ((y * z) + x) + Float(1.0f);
  return y * float_of_bits((exponent + 127u) << 23);
}

// exp(x) as a softmax wants it: exactly 0 below the range of portable_exp, so that -inf masks.
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float softmax_exp(Float x) {
  return select(x < Float(kExpLowest), Float(0.0f), portable_exp(x));
}

LATENT_EXT_NAMESPACE_END
