// A standard Gumbel value from one random word, for token draws by the Gumbel-max rule: -log(E) with E =
// -log(1 - x) exponential. For small x the polynomial of log(1 - x) is used directly, so that large Gumbel
// values keep their precision.
#pragma once

#include "latent_ext/elementary.h"

LATENT_EXT_NAMESPACE_BEGIN

// (word + 1/2) * 2^-32 in fp32; both halves convert exactly.
template <class Word>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE auto unit_interval(Word word) -> decltype(float_of_bits(word)) {
  using Float = decltype(float_of_bits(word));
  return ((float_of_int(word >> 16) * Float(65536.0f) + float_of_int(word & 0xFFFFu)) + Float(0.5f)) *
         Float(2.3283064365386963e-10f);
}

template <class Word>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE auto gumbel_from_word(Word word) -> decltype(float_of_bits(word)) {
  using Float = decltype(float_of_bits(word));
  const Float x = unit_interval(word);
  const Float near_zero = log_of_reduced(-x, Float(0.0f));
  const Float elsewhere = portable_log(unit_interval(~word));
  const Float exponential = -select(x < Float(0.29f), near_zero, elsewhere);
  return -portable_log(exponential);
}

LATENT_EXT_NAMESPACE_END
