// The rate of multiply-adds that the level's registers allow, for the floors that benchmarks print.
#include "kernels.h"
#include "vec16.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

constexpr int kChains = 12;  // more than latency x units of any core

double multiply_adds(int64_t rounds) {
  FloatPart sum[kChains];
  for (int i = 0; i < kChains; ++i) sum[i] = 1.0f - FloatPart{};
  FloatPart factor = 0.999f - FloatPart{};
  for (int64_t round = 0; round < rounds; ++round) {
    LATENT_EXT_UNROLL
    for (int i = 0; i < kChains; ++i) {
      sum[i] = multiply_add(sum[i], factor, factor);
#if defined(__AVX512F__)
      __asm__ volatile("" : : "v"(sum[i]));  // every round is computed
#elif defined(__x86_64__)
      __asm__ volatile("" : : "x"(sum[i]));  // every round is computed
#endif
    }
  }
  return static_cast<double>(rounds) * kChains * kPartLanes;
}

}  // namespace

void add_peak_kernel(Kernels& table) {
  table.multiply_adds = multiply_adds;
}

LATENT_EXT_NAMESPACE_END
