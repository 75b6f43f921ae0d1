// Activation functions in fp32 from the operations of elementary.h, one fixed order, so every ISA level and
// CUDA give the same bits.
#pragma once

#include "latent_ext/elementary.h"

LATENT_EXT_NAMESPACE_BEGIN

// x * sigmoid(y) without overflow: exp saturates at both ends.
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float times_sigmoid(Float x, Float y) {
  return x / (Float(1.0f) + portable_exp(-y));
}

// GELU with tanh ("gelu_new"): x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float gelu_tanh(Float x) {
  const Float cubic = x + Float(0.044715f) * ((x * x) * x);
  return times_sigmoid(x, Float(1.5957691216057308f) * cubic);
}

// exp(-x^2) with the rounding error of x^2 left in, times a rational in 1 / (1 + p |x|): Abramowitz and
// Stegun 7.1.26, absolute error below 2e-7.
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float gelu_erf(Float x) {
  const Float scaled = x * Float(0.70710678118654752f);
  const Float magnitude = select(scaled < Float(0.0f), -scaled, scaled);
  const Float t = Float(1.0f) / (Float(1.0f) + Float(0.3275911f) * magnitude);
  Float y = Float(1.061405429f);
  y = y * t + Float(-1.453152027f);
  y = y * t + Float(1.421413741f);
  y = y * t + Float(-0.284496736f);
  y = y * t + Float(0.254829592f);
  const Float tail = (y * t) * portable_exp(-(magnitude * magnitude));  // 1 - erf(|x| / sqrt 2)
  const Float half = Float(0.5f) * x;
  return select(scaled < Float(0.0f), half * tail, half * (Float(2.0f) - tail));
}

template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float silu(Float x) {
  return times_sigmoid(x, x);
}

template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float relu(Float x) {
  return select(x < Float(0.0f), Float(0.0f), x);
}

LATENT_EXT_NAMESPACE_END
