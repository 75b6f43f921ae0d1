// bfloat16 storage: 16 bits, converted to and from fp32 by integer operations. Rounds to nearest even; NaN
// stays NaN (0x7FC0, as PyTorch writes it).
#pragma once

#include "latent_ext/lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

struct BFloat16 {
  uint16_t bits;
};

// The 16 bits to store, in the low half of a word.
template <class Float>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE auto bfloat16_bits(Float x) -> decltype(bits_of(x)) {
  using Word = decltype(bits_of(x));
  const Word bits = bits_of(x);
  const Word rounded = (bits + (((bits >> 16) & 1u) + 0x7FFFu)) >> 16;
  return select(x != x, Word(0x7FC0u), rounded);
}

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE float to_float(float x) {
  return x;
}
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE float to_float(BFloat16 x) {
  return float_of_bits(static_cast<uint32_t>(x.bits) << 16);
}

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE void store_rounded(float* where, float x) {
  *where = x;
}
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE void store_rounded(BFloat16* where, float x) {
  where->bits = static_cast<uint16_t>(bfloat16_bits(x));
}

LATENT_EXT_NAMESPACE_END
