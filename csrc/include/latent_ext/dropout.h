// The keep/drop rule. The drop probability is exact to 2^-32; kept values are multiplied by 1 / (1 - p).
#pragma once

#include "latent_ext/lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

struct Dropout {
  bool active;        // false: nothing is drawn and the branch passes unchanged
  uint32_t last_out;  // a word <= last_out is dropped (threshold - 1, so that a threshold of 2^32 still fits)
  float scale;
};

// p in [0, 1). A p below 2^-33 rounds to a threshold of 0 and a scale of 1: nothing to draw.
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Dropout make_dropout(double p) {
  const uint64_t threshold = static_cast<uint64_t>(p * 4294967296.0 + 0.5);
  return {threshold != 0, static_cast<uint32_t>(threshold - 1), static_cast<float>(1.0 / (1.0 - p))};
}

// One lane or sixteen; call only when dropout.active.
template <class Float, class Word>
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE Float drop(const Dropout& dropout, Word word, Float x) {
  return select(word <= Word(dropout.last_out), Float(0.0f), x * Float(dropout.scale));
}

LATENT_EXT_NAMESPACE_END
