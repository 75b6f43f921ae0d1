// From a hidden state to the next thought, row by row: statistics, then one pass that norms, scales, draws
// and stores. The relative noise needs the root mean square of the scaled row first, which costs one more
// pass over L1.
#include "kernels.h"
#include "latent_ext/elementary.h"
#include "latent_ext/normal.h"
#include "latent_ext/sites.h"
#include "norm_lanes.h"
#include "random_lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

// One row as the formulas see it.
template <class Storage>
struct Row {
  const Storage* hidden;
  const Storage* weight;
  const Storage* bias;
  const Storage* log_std;
  int64_t size;
  Moments moments;
  float scale;

  LATENT_EXT_INLINE Floats scaled_mean(int64_t i, int64_t left) const {
    return Floats(scale) * mean(i, left);
  }

  LATENT_EXT_INLINE Floats mean(int64_t i, int64_t left) const {
    return normalized(load_row(hidden + i, left), moments, weight ? weight + i : nullptr,
                      bias ? bias + i : nullptr, left);
  }

  LATENT_EXT_INLINE float scaled_root_mean_square() const {
    Floats squares(0.0f);
    each_sixteen(size, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
      const Floats scaled = scaled_mean(i, left);
      squares = squares + zero_past_end(scaled * scaled, left);
    });
    return square_root(sum_of_lanes(squares) / static_cast<float>(size));
  }

  // deviation: of the noise, or the factor on exp(log_std).
  LATENT_EXT_INLINE Floats thought(int64_t i, int64_t left, float deviation, const Words& words) const {
    const Floats noise = normal_from_word(words);
    if (!log_std) return scaled_mean(i, left) + Floats(deviation) * noise;
    const Floats learned = portable_exp(load_row(log_std + i, left)) * Floats(deviation);
    return Floats(scale) * (mean(i, left) + learned * noise);
  }
};

template <class Storage>
void rows(const NextThoughtCall& call, int64_t first_row, int64_t last_row) {
  const int64_t size = call.hidden_size;
  for (int64_t r = first_row; r < last_row; ++r) {
    const Storage* hidden = static_cast<const Storage*>(call.hidden) + r * size;
    const Storage* log_std = call.log_std ? static_cast<const Storage*>(call.log_std) + r * size : nullptr;
    const Row<Storage> row = {hidden,
                              static_cast<const Storage*>(call.weight),
                              static_cast<const Storage*>(call.bias),
                              log_std,
                              size,
                              row_moments(hidden, size, call.norm, call.eps),
                              call.scale};
    Storage* next_input = static_cast<Storage*>(call.next_input) + r * size;
    Storage* thought =
        call.thoughts ? static_cast<Storage*>(call.thoughts) + r * call.thoughts_stride : nullptr;
    const auto store = [&](int64_t i, int64_t left, const Floats& z) LATENT_EXT_INLINE_LAMBDA {
      store_row(next_input + i, z, left);
      if (thought) store_row(thought + i, z, left);
    };
    if (call.sigma == 0.0f) {
      each_sixteen(size, [&](int64_t i, int64_t left)
                             LATENT_EXT_INLINE_LAMBDA { store(i, left, row.scaled_mean(i, left)); });
      continue;
    }
    const float deviation = call.relative ? call.sigma * row.scaled_root_mean_square() : call.sigma;
    const Draw draw = make_draw(call.draws.seed, call.draws.keys[r], kSiteNoise, call.draws.positions[r]);
    WordBlock words;
    each_sixteen(size, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
      const int half = i / kLanes % 2;
      if (half == 0) words = random_words(draw, static_cast<uint64_t>(i));
      store(i, left, row.thought(i, left, deviation, words.half[half]));
    });
  }
}

void next_thought(const NextThoughtCall& call, int64_t first_row, int64_t last_row) {
  call.bfloat16 ? rows<BFloat16>(call, first_row, last_row) : rows<float>(call, first_row, last_row);
}

}  // namespace

void add_next_thought_kernel(Kernels& table) {
  table.next_thought = next_thought;
}

LATENT_EXT_NAMESPACE_END
