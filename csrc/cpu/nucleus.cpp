// Sorting a whole vocabulary for every token would cost more than the model. Tokens of less than the average
// share of what may be left out cannot matter, and few others there are where the model is sure of anything.
#include "nucleus.h"

#include <algorithm>
#include <limits>

namespace latent_ext {

float nucleus_cutoff(const Kernels& kernels, const float* logits, int64_t count, float temperature,
                     double top_p, NucleusScratch& scratch) {
  const float infinity = std::numeric_limits<float>::infinity();
  float largest = -infinity;
  for (int64_t i = 0; i < count; ++i) {
    if (logits[i] > largest) largest = logits[i];
  }
  // no number at all, or one that no other comes near
  if (largest == -infinity || largest == infinity) return largest;
  scratch.shifted.resize(count);
  scratch.mass.resize(count);
  for (int64_t i = 0; i < count; ++i) scratch.shifted[i] = (logits[i] - largest) / temperature;
  kernels.exp(scratch.shifted.data(), count, scratch.mass.data());
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    if (logits[i] == logits[i]) total += scratch.mass[i];
  }
  const double wanted = top_p * total;
  // half of the average share, so that rounding leaves no token out
  const double least = 0.5 * (1.0 - top_p) * total / count;
  scratch.candidates.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (scratch.mass[i] >= least) scratch.candidates.push_back({logits[i], scratch.mass[i]});
  }
  std::sort(scratch.candidates.begin(), scratch.candidates.end(),
            [](const auto& a, const auto& b) { return a.logit > b.logit; });
  double sum = 0.0;
  for (const auto& candidate : scratch.candidates) {
    sum += candidate.mass;
    if (sum >= wanted) return candidate.logit;
  }
  return scratch.candidates.back().logit;
}

}  // namespace latent_ext
