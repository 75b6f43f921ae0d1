// Which tokens top-p sampling may draw (Holtzman et al., arXiv 1904.09751).
#pragma once

#include <vector>

#include "kernels.h"

namespace latent_ext {

// What one member works with.
struct NucleusScratch {
  struct Candidate {
    float logit, mass;
  };
  std::vector<float> shifted, mass;  // [vocabulary]
  std::vector<Candidate> candidates;
};

// The smallest logit of the fewest most likely tokens that together have the probability top_p at this
// temperature (above 0); tokens of the same logit are all in or all out. logits: [count].
float nucleus_cutoff(const Kernels& kernels, const float* logits, int64_t count, float temperature,
                     double top_p, NucleusScratch& scratch);

}  // namespace latent_ext
