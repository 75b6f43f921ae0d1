// Sine and cosine of a rotary angle in fp32, from the operations of elementary.h and double arithmetic for
// the reduction to [-pi/4, pi/4]: angles are positions below 2^20 times frequencies up to 1, so a two-part
// pi/2 leaves an error far below fp32's. Polynomials of Cephes sinf and cosf (S. Moshier).
#pragma once

#include "latent_ext/platform.h"

LATENT_EXT_NAMESPACE_BEGIN

struct SineCosine {
  float sine, cosine;
};

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE SineCosine sine_cosine(float angle) {
  const double x = static_cast<double>(angle);
  const double scaled = x * 0.63661977236758134308;  // 2 / pi
  const int64_t quadrant = static_cast<int64_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
  const double n = static_cast<double>(quadrant);
  const float r = static_cast<float>((x - n * 1.57079632673412561417e+00) - n * 6.07710050650619224932e-11);
  const float z = r * r;
  float sine = -1.9515295891e-4f;
  sine = sine * z + 8.3321608736e-3f;
  sine = sine * z + -1.6666654611e-1f;
  sine = sine * z * r + r;
  float cosine = 2.443315711809948e-5f;
  cosine = cosine * z + -1.388731625493765e-3f;
  cosine = cosine * z + 4.166664568298827e-2f;
  cosine = cosine * z * z - 0.5f * z + 1.0f;
  switch (quadrant & 3) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

LATENT_EXT_NAMESPACE_END
