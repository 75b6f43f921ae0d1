// The order of pruning: larger total first, ties to the smaller row, NaN after everything (below -inf).
#pragma once

#include "latent_ext/platform.h"

LATENT_EXT_NAMESPACE_BEGIN

// A total order, so a sort by it has one result. -0 and +0 tie.
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE bool ranks_before(float total_a, int64_t row_a, float total_b,
                                                           int64_t row_b) {
  const bool nan_a = total_a != total_a;
  const bool nan_b = total_b != total_b;
  if (nan_a != nan_b) return nan_b;
  if (!nan_a && total_a != total_b) return total_a > total_b;
  return row_a < row_b;
}

LATENT_EXT_NAMESPACE_END
