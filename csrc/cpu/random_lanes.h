// Thirty-two random words at a time: eight Philox counters, one per 64-bit lane, so that the 32 x 32 -> 64
// bit product is one instruction and its low half needs none. Words come out in element order.
#pragma once

#include "latent_ext/philox.h"
#include "vec16.h"

LATENT_EXT_NAMESPACE_BEGIN

constexpr int kDrawBlock = 32;

// Eight words in 64-bit lanes; the upper halves hold leftovers.
struct WideWords {
  WidePart part[kParts];

  LATENT_EXT_INLINE WideWords() {}
  LATENT_EXT_INLINE WideWords(uint32_t x) { LATENT_EXT_EACH_PART part[i] = uint64_t(x) - WidePart{}; }
};

LATENT_EXT_INLINE WideWords operator^(const WideWords& a, const WideWords& b) {
  WideWords out;
  LATENT_EXT_EACH_PART out.part[i] = a.part[i] ^ b.part[i];
  return out;
}

LATENT_EXT_INLINE void multiply_wide(uint32_t multiplier, const WideWords& x, WideWords& high,
                                     WideWords& low) {
  LATENT_EXT_EACH_PART {
    const WidePart factor = uint64_t(multiplier) - WidePart{};
#if defined(__AVX512F__)
    low.part[i] = (WidePart)_mm512_mul_epu32((__m512i)factor, (__m512i)x.part[i]);
#elif defined(__AVX2__)
    low.part[i] = (WidePart)_mm256_mul_epu32((__m256i)factor, (__m256i)x.part[i]);
#elif defined(__x86_64__)
    low.part[i] = (WidePart)_mm_mul_epu32((__m128i)factor, (__m128i)x.part[i]);
#else
    low.part[i] = factor * (x.part[i] & 0xFFFFFFFFull);
#endif
    high.part[i] = low.part[i] >> 32;
  }
}

struct WordBlock {
  Words half[2];  // elements 0..15 and 16..31 of the block
};

// The words of elements first .. first + 31; first is a multiple of 4.
LATENT_EXT_INLINE WordBlock random_words(const Draw& draw, uint64_t first) {
  static const uint64_t kCounterOffsets[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  WideWords counter(static_cast<uint32_t>(first >> 2));
  LATENT_EXT_EACH_PART {
    WidePart offsets;
    __builtin_memcpy(&offsets, kCounterOffsets + i * (kPartLanes / 2), sizeof(offsets));
    counter.part[i] += offsets;
  }
  const PhiloxOutput<WideWords> out = philox4x32_10<WideWords>(
      counter, WideWords(draw.c1), WideWords(draw.c2), WideWords(draw.c3), draw.k0, draw.k1);
  WordBlock block;
  LATENT_EXT_EACH_PART {
    const WidePart low_half = 0xFFFFFFFFull - WidePart{};
    const WidePart a = (out.word[0].part[i] & low_half) | (out.word[1].part[i] << 32);
    const WidePart b = (out.word[2].part[i] & low_half) | (out.word[3].part[i] << 32);
#if LATENT_EXT_PART_BYTES == 64
    const WidePart first_pairs = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    const WidePart last_pairs = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif LATENT_EXT_PART_BYTES == 32
    const WidePart first_pairs = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const WidePart last_pairs = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
    const WidePart first_pairs = __builtin_shufflevector(a, b, 0, 2);
    const WidePart last_pairs = __builtin_shufflevector(a, b, 1, 3);
#endif
    block.half[2 * i / kParts].part[2 * i % kParts] = (WordPart)first_pairs;
    block.half[(2 * i + 1) / kParts].part[(2 * i + 1) % kParts] = (WordPart)last_pairs;
  }
  return block;
}

LATENT_EXT_NAMESPACE_END
