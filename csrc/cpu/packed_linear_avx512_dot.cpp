// bfloat16 and int8 products by the instructions that sum pairs and quads (AVX512_BF16, AVX512_VNNI), for the
// CPUs of level avx512 that have both.
#include "kernels.h"
#include "linear_results.h"
#include "panel_product.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

// VDPBF16PS adds the two products of a pair to the sum, odd input first, and flushes denormals.
struct BFloat16Dot : FloatSums {
  typedef __m512bh Weights;
  typedef __m512bh Input;
  static LATENT_EXT_INLINE Weights load(const uint32_t* words) { return (__m512bh)_mm512_loadu_si512(words); }
  static LATENT_EXT_INLINE Input input(const uint32_t* word) {
    return (__m512bh)_mm512_set1_epi32(static_cast<int>(*word));
  }
  static LATENT_EXT_INLINE void add(Part& sum, const Input& x, const Weights& w) {
    sum = (FloatPart)_mm512_dpbf16_ps((__m512)sum, x, w);
  }
};

struct Int8Dot : IntSums {
  static constexpr int32_t kOffset = 128;
  typedef __m512i Weights;
  typedef __m512i Input;
  static LATENT_EXT_INLINE Weights load(const uint32_t* words) { return _mm512_loadu_si512(words); }
  static LATENT_EXT_INLINE Input input(const uint32_t* word) {
    return _mm512_set1_epi32(static_cast<int>(*word));
  }
  static LATENT_EXT_INLINE void add(Part& sum, const Input& x, const Weights& w) {
    // by hand: GCC 12 copies the accumulators of the intrinsic to and fro
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  }
};

}  // namespace

void add_dot_kernels(Kernels& table) {
  table.linear[static_cast<int>(WeightFormat::kBFloat16)] = products<BFloat16Dot>;
  table.linear[static_cast<int>(WeightFormat::kInt8)] = products<Int8Dot>;
}

LATENT_EXT_NAMESPACE_END
