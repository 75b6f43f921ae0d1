// Random numbers of a row, a pack at a time. A pack starts at a multiple of four elements, so each Philox
// call serves four neighbours and nothing is drawn twice.
#pragma once

#include "latent_ext/dropout.h"
#include "latent_ext/normal.h"
#include "latent_ext/philox.h"
#include "latent_ext/sites.h"
#include "row.cuh"

namespace latent_ext {

template <typename T>
__device__ __forceinline__ void drop_pack(Pack<T>& pack, const Draw& draw, int first,
                                          const Dropout& dropout) {
#pragma unroll
  for (int quad = 0; quad < kPack<T>; quad += 4) {
    const PhiloxOutput<uint32_t> words = four_random_words(draw, static_cast<uint32_t>(first + quad) >> 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) pack.value[quad + i] = drop(dropout, words.word[i], pack.value[quad + i]);
  }
}

template <typename T>
__device__ __forceinline__ Pack<T> normal_pack(const Draw& draw, int first) {
  Pack<T> pack;
#pragma unroll
  for (int quad = 0; quad < kPack<T>; quad += 4) {
    const PhiloxOutput<uint32_t> words = four_random_words(draw, static_cast<uint32_t>(first + quad) >> 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) pack.value[quad + i] = normal_from_word(words.word[i]);
  }
  return pack;
}

}  // namespace latent_ext
