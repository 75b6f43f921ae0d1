// Norm statistics of one row in 16 virtual lanes, and the norm of sixteen elements.
#pragma once

#include "lane_loops.h"
#include "latent_ext/norm.h"

LATENT_EXT_NAMESPACE_BEGIN

// kNone gives mean 0 and factor 1: standardize() then changes nothing.
template <class Storage>
LATENT_EXT_INLINE Moments row_moments(const Storage* x, int64_t hidden, NormKind norm, float eps) {
  if (norm == NormKind::kNone) return {0.0f, 1.0f};
  Moments moments = {0.0f, 1.0f};
  if (norm == NormKind::kLayer) {
    Floats sum(0.0f);
    each_sixteen(
        hidden, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA { sum = sum + load_row(x + i, left); });
    moments.mean = sum_of_lanes(sum) / static_cast<float>(hidden);
  }
  const Floats mean(moments.mean);
  Floats squares(0.0f);
  each_sixteen(hidden, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
    const Floats centered = load_row(x + i, left) - mean;
    squares = squares + zero_past_end(centered * centered, left);
  });
  moments.inverse_deviation = inverse_deviation(sum_of_lanes(squares), hidden, eps);
  return moments;
}

// weight and bias point at the element of x's first lane, or are null.
template <class Storage>
LATENT_EXT_INLINE Floats normalized(const Floats& x, const Moments& moments, const Storage* weight,
                                    const Storage* bias, int64_t remaining) {
  Floats y = standardize(x, moments);
  if (weight) y = y * load_row(weight, remaining);
  if (bias) y = y + load_row(bias, remaining);
  return y;
}

LATENT_EXT_NAMESPACE_END
