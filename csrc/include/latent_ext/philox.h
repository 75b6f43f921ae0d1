// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11) and how a draw is
// addressed.
//
// Every random number is a function of (run seed, trajectory key, site, position, element), never of a
// stream: nothing that is batched, pruned, threaded or resumed can change it.
#pragma once

#include "latent_ext/lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;

constexpr int kPositionBits = 20;
constexpr uint32_t kFixedPosition = 0xFFFFFu;  // the same draw for the whole trajectory
constexpr uint32_t kSiteLimit = 4096;
constexpr uint64_t kElementLimit = uint64_t(1) << 34;

template <class Word>
struct PhiloxOutput {
  Word word[4];
};

template <class Word>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE PhiloxOutput<Word> philox4x32_10(Word c0, Word c1, Word c2, Word c3,
                                                                          uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    Word high0, low0, high1, low1;
    multiply_wide(kPhiloxMultiplier0, c0, high0, low0);
    multiply_wide(kPhiloxMultiplier1, c2, high1, low1);
    c0 = high1 ^ c1 ^ Word(k0);
    c1 = low1;
    c2 = high0 ^ c3 ^ Word(k1);
    c3 = low0;
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// All of an address but the element.
struct Draw {
  uint32_t k0, k1;      // run seed
  uint32_t c1, c2, c3;  // site << 20 | position, trajectory key
};

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Draw make_draw(int64_t seed, int64_t trajectory_key, uint32_t site,
                                                        int64_t position) {
  const uint64_t seed_bits = static_cast<uint64_t>(seed);
  const uint64_t key_bits = static_cast<uint64_t>(trajectory_key);
  return {static_cast<uint32_t>(seed_bits), static_cast<uint32_t>(seed_bits >> 32),
          site << kPositionBits | static_cast<uint32_t>(position), static_cast<uint32_t>(key_bits),
          static_cast<uint32_t>(key_bits >> 32)};
}

// The four words of elements 4 * c0 .. 4 * c0 + 3.
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE PhiloxOutput<uint32_t> four_random_words(const Draw& draw,
                                                                                  uint32_t c0) {
  return philox4x32_10<uint32_t>(c0, draw.c1, draw.c2, draw.c3, draw.k0, draw.k1);
}

LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE uint32_t random_word(const Draw& draw, uint64_t element) {
  return four_random_words(draw, static_cast<uint32_t>(element >> 2)).word[element & 3];
}

enum class KeyTag : uint32_t { kRoot = 1, kBeam = 2, kRollout = 3 };

// A new 64-bit trajectory key from an old one (design: root, child and rollout keys).
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE uint64_t derive_key(uint64_t key, uint32_t a, uint32_t b,
                                                             KeyTag tag) {
  const PhiloxOutput<uint32_t> out = philox4x32_10<uint32_t>(
      a, b, static_cast<uint32_t>(tag), 0, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  return out.word[0] | static_cast<uint64_t>(out.word[1]) << 32;
}

LATENT_EXT_NAMESPACE_END
