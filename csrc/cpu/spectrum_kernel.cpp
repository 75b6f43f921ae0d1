// Singular-value perturbation: coordinates along the right singular vectors times a normal that belongs to
// trajectory, layer and singular value and not to a position, so a trajectory keeps one W_V. Two products and
// no sum: nothing that could be contracted.
#include "kernels.h"
#include "latent_ext/normal.h"
#include "random_lanes.h"
#include "storage_lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

void scale_spectrum(const SpectrumCall& call, int64_t first_row, int64_t last_row) {
  const Floats alpha(call.alpha);
  for (int64_t row = first_row; row < last_row; ++row) {
    float* x = call.rows + row * call.rank;
    const Draw draw = make_draw(call.seed, call.keys[row], call.site, int64_t(kFixedPosition));
    for (int64_t i = 0; i < call.rank; i += kDrawBlock) {
      const WordBlock words = random_words(draw, static_cast<uint64_t>(i));
      for (int half = 0; half < 2; ++half) {
        const int64_t at = i + half * kLanes;
        if (at >= call.rank) break;
        const int64_t left = call.rank - at;
        store_row(x + at, load_row(x + at, left) * (alpha * normal_from_word(words.half[half])), left);
      }
    }
  }
}

}  // namespace

void add_spectrum_kernel(Kernels& table) {
  table.scale_spectrum = scale_spectrum;
}

LATENT_EXT_NAMESPACE_END
