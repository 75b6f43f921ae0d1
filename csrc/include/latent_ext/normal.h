// A standard Gaussian from one random word: M. Wichura's PPND7 (Algorithm AS 241, Applied Statistics 37,
// 1988) in fp32, folded on its symmetry: the top bit is the sign, the other 31 bits the tail probability.
// Both branches are evaluated and one is selected, so the same source serves vectors. |z| <= 6.34.
#pragma once

#include "latent_ext/elementary.h"

LATENT_EXT_NAMESPACE_BEGIN

template <class Word>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE auto normal_from_word(Word word) -> decltype(float_of_bits(word)) {
  using Float = decltype(float_of_bits(word));
  const Float f = float_of_int(word & 0x7FFFFFFFu);
  const Float tail = (f + Float(0.5f)) * Float(2.3283064365386963e-10f);  // 2^-32
  const Float q = Float(0.5f) - tail;

  const Float r = Float(0.180625f) - q * q;
  const Float central_numerator =
      ((Float(5.9109374720e+01f) * r + Float(1.5929113202e+02f)) * r + Float(5.0434271938e+01f)) * r +
      Float(3.3871327179e+00f);
  const Float central_denominator =
      ((Float(6.7187563600e+01f) * r + Float(7.8757757664e+01f)) * r + Float(1.7895169469e+01f)) * r +
      Float(1.0f);
  const Float central = (q * central_numerator) / central_denominator;

  const Float t = square_root(-portable_log(tail)) - Float(1.6f);
  const Float outer_numerator =
      ((Float(1.7023821103e-01f) * t + Float(1.3067284816e+00f)) * t + Float(2.7568153900e+00f)) * t +
      Float(1.4234372777e+00f);
  const Float outer_denominator = (Float(1.2021132975e-01f) * t + Float(7.3700164250e-01f)) * t + Float(1.0f);
  const Float outer = outer_numerator / outer_denominator;

  const Float magnitude = select(q <= Float(0.425f), central, outer);
  return float_of_bits(bits_of(magnitude) ^ (word & 0x80000000u));
}

LATENT_EXT_NAMESPACE_END
