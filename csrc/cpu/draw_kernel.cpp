// Raw random words, normals, Gumbel values, masks, log and exp at one ISA level: what the tests compare bit
// for bit.
#include "kernels.h"
#include "latent_ext/dropout.h"
#include "latent_ext/gumbel.h"
#include "latent_ext/normal.h"
#include "random_lanes.h"
#include "storage_lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

// Calls visit(words, at, remaining) for every 16 elements of a draw.
template <class Visit>
LATENT_EXT_INLINE void each_sixteen(const Draw& draw, uint64_t first, int64_t count, const Visit& visit) {
  for (int64_t i = 0; i < count; i += kDrawBlock) {
    const WordBlock block = random_words(draw, first + i);
    for (int half = 0; half < 2; ++half) {
      const int64_t at = i + half * kLanes;
      if (at < count) visit(block.half[half], at, count - at);
    }
  }
}

void random_words_of(int64_t seed, int64_t key, int64_t position, uint32_t site, uint64_t first,
                     int64_t count, uint32_t* out) {
  each_sixteen(make_draw(seed, key, site, position), first, count,
               [&](const Words& words, int64_t at, int64_t left) {
                 uint32_t lane[kLanes];
                 store_lanes(lane, words);
                 for (int i = 0; i < kLanes && i < left; ++i) out[at + i] = lane[i];
               });
}

void normals(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, float* out) {
  each_sixteen(make_draw(seed, key, site, position), 0, count,
               [&](const Words& words, int64_t at, int64_t left) {
                 store_row(out + at, normal_from_word(words), left);
               });
}

void gumbels(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, float* out) {
  each_sixteen(make_draw(seed, key, site, position), 0, count,
               [&](const Words& words, int64_t at, int64_t left) {
                 store_row(out + at, gumbel_from_word(words), left);
               });
}

void keep_mask(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, double p,
               bool* out) {
  const Dropout dropout = make_dropout(p);
  if (!dropout.active) {
    for (int64_t i = 0; i < count; ++i) out[i] = true;
    return;
  }
  each_sixteen(make_draw(seed, key, site, position), 0, count,
               [&](const Words& words, int64_t at, int64_t left) {
                 float lane[kLanes];
                 store_lanes(lane, drop(dropout, words, Floats(1.0f)));
                 for (int i = 0; i < kLanes && i < left; ++i) out[at + i] = lane[i] != 0.0f;
               });
}

void log_of(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kLanes)
    store_row(out + i, portable_log(load_row(x + i, count - i)), count - i);
}

void exp_of(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kLanes)
    store_row(out + i, portable_exp(load_row(x + i, count - i)), count - i);
}

}  // namespace

void add_draw_kernels(Kernels& table) {
  table.random_words = random_words_of;
  table.normals = normals;
  table.gumbels = gumbels;
  table.keep_mask = keep_mask;
  table.log = log_of;
  table.exp = exp_of;
}

LATENT_EXT_NAMESPACE_END
