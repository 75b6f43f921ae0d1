// Floats for one kernel call, aligned to a cache line.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

namespace latent_ext {

struct FreeScratch {
  void operator()(float* pointer) const { std::free(pointer); }
};
using Scratch = std::unique_ptr<float[], FreeScratch>;

inline Scratch new_scratch(int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64 + 64;
  float* pointer = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (!pointer) throw std::bad_alloc();
  return Scratch(pointer);
}

}  // namespace latent_ext
