// Packed linear layers with what every CPU of the level has; bfloat16 and int8 are widened before the
// product.
#include "kernels.h"
#include "linear_results.h"
#include "panel_product.h"
#include "row_encoding.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

LATENT_EXT_INLINE WordPart load_words(const uint32_t* from) {
  return *reinterpret_cast<const UnalignedWordPart*>(from);
}

LATENT_EXT_INLINE FloatPart broadcast(float x) {
  return x - FloatPart{};
}

struct Float32Product : FloatSums {
  typedef FloatPart Weights;
  typedef FloatPart Input;
  static LATENT_EXT_INLINE Weights load(const uint32_t* words) { return (FloatPart)load_words(words); }
  static LATENT_EXT_INLINE Input input(const uint32_t* word) {
    return broadcast(*reinterpret_cast<const float*>(word));
  }
  static LATENT_EXT_INLINE void add(Part& sum, const Input& x, const Weights& w) {
    sum = multiply_add(x, w, sum);
  }
};

// The pair of a word in order of the inputs: low half first.
struct BFloat16Product : FloatSums {
  struct Pair {
    FloatPart low, high;
  };
  typedef Pair Weights;
  typedef Pair Input;
  static LATENT_EXT_INLINE Pair split(WordPart words) {
    return {(FloatPart)(words << 16), (FloatPart)(words & (0xFFFF0000u - WordPart{}))};
  }
  static LATENT_EXT_INLINE Weights load(const uint32_t* words) { return split(load_words(words)); }
  static LATENT_EXT_INLINE Input input(const uint32_t* word) { return split(*word - WordPart{}); }
  static LATENT_EXT_INLINE void add(Part& sum, const Input& x, const Weights& w) {
    sum = multiply_add(x.low, w.low, sum);
    sum = multiply_add(x.high, w.high, sum);
  }
};

// Integer sums are exact, so their order is free: even and odd bytes as 16-bit numbers, pairs summed in 32
// bits.
struct Int8Product : IntSums {
  typedef int16_t ShortPart __attribute__((vector_size(LATENT_EXT_PART_BYTES)));
  struct Halves {
    ShortPart even, odd;
  };
  typedef Halves Weights;
  typedef Halves Input;
  static LATENT_EXT_INLINE Halves split(WordPart words) {
    const ShortPart shorts = (ShortPart)words;
    return {(ShortPart)(shorts << 8) >> 8, shorts >> 8};
  }
  static LATENT_EXT_INLINE Weights load(const uint32_t* words) { return split(load_words(words)); }
  static LATENT_EXT_INLINE Input input(const uint32_t* word) {
    return split((*word ^ 0x80808080u) - WordPart{});
  }
  static LATENT_EXT_INLINE IntPart pair_sums(ShortPart a, ShortPart b) {
#if defined(__AVX512BW__)
    return (IntPart)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (IntPart)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
    return (IntPart)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    IntPart out;
    for (int lane = 0; lane < kPartLanes; ++lane) {
      out[lane] = int32_t(a[2 * lane]) * b[2 * lane] + int32_t(a[2 * lane + 1]) * b[2 * lane + 1];
    }
    return out;
#endif
  }
  static LATENT_EXT_INLINE void add(Part& sum, const Input& x, const Weights& w) {
    sum += pair_sums(x.even, w.even);
    sum += pair_sums(x.odd, w.odd);
  }
};

void linear(const LinearCall& call, int64_t first_panel, int64_t last_panel) {
  switch (call.linear.format) {
    case WeightFormat::kFloat32:
      return products<Float32Product>(call, first_panel, last_panel);
    case WeightFormat::kBFloat16:
      return products<BFloat16Product>(call, first_panel, last_panel);
    case WeightFormat::kInt8:
      return products<Int8Product>(call, first_panel, last_panel);
    default:  // rows are for CUDA; view_packed_model lets none through
      return;
  }
}

void gate(const float* gate_and_up, int64_t inner, Activation activation, int64_t rows, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* gates = gate_and_up + r * 2 * inner;
    with_activation(activation, [&](auto act) LATENT_EXT_INLINE_LAMBDA {
      each_sixteen(inner, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
        store_row(out + r * inner + i, act(load_row(gates + i, left)) * load_row(gates + inner + i, left),
                  left);
      });
    });
  }
}

}  // namespace

void add_linear_kernels(Kernels& table) {
  for (auto& of_format : table.linear) of_format = linear;
  table.encode_rows = encode_rows;
  table.gate = gate;
}

LATENT_EXT_NAMESPACE_END
