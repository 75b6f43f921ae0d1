// Loops over the elements of a row, sixteen at a time: whole vectors first, with sizes the compiler knows,
// then the rest.
#pragma once

#include "storage_lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

#define LATENT_EXT_INLINE_LAMBDA __attribute__((always_inline))

// Calls visit(i, remaining) for i = 0, 16, ...; remaining counts from i and is 16 where there are more.
template <class Visit>
LATENT_EXT_INLINE void each_sixteen(int64_t count, const Visit& visit) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) visit(i, int64_t(kLanes));
  if (i < count) visit(i, count - i);
}

// Sum of products: one fma chain per virtual lane, lanes added pairwise.
template <class A, class B>
LATENT_EXT_INLINE float dot(const A* a, const B* b, int64_t count) {
  Floats sum(0.0f);
  each_sixteen(count, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
    sum = multiply_add(load_row(a + i, left), load_row(b + i, left), sum);
  });
  return sum_of_lanes(sum);
}

LATENT_EXT_NAMESPACE_END
