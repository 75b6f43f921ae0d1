// Sixteen lanes, whatever the width of the registers: four SSE or NEON parts, two AVX2 parts or one AVX-512
// part. Written over GCC vector types, with intrinsics only where the language has no word for the
// instruction. Offers the names of lanes.h, so the formulas of csrc/include work on it unchanged.
//
// Lane i of every level sees the same operations in the same order. Only multiply_add differs: `default` has
// no fma.
#pragma once

#if !defined(LATENT_EXT_ISA)
#error "vec16.h belongs to translation units that are compiled for one ISA level"
#endif

#include "latent_ext/lanes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

LATENT_EXT_NAMESPACE_BEGIN

#if defined(__AVX512F__)
#define LATENT_EXT_PART_BYTES 64
#elif defined(__AVX2__)
#define LATENT_EXT_PART_BYTES 32
#else
#define LATENT_EXT_PART_BYTES 16
#endif

constexpr int kParts = 64 / LATENT_EXT_PART_BYTES;
constexpr int kPartLanes = LATENT_EXT_PART_BYTES / 4;

typedef float FloatPart __attribute__((vector_size(LATENT_EXT_PART_BYTES)));
typedef int32_t IntPart __attribute__((vector_size(LATENT_EXT_PART_BYTES)));
typedef uint32_t WordPart __attribute__((vector_size(LATENT_EXT_PART_BYTES)));
typedef uint64_t WidePart __attribute__((vector_size(LATENT_EXT_PART_BYTES)));
typedef float UnalignedFloatPart __attribute__((vector_size(LATENT_EXT_PART_BYTES), aligned(4), may_alias));
typedef uint32_t UnalignedWordPart __attribute__((vector_size(LATENT_EXT_PART_BYTES), aligned(4), may_alias));

// Asks for complete unrolling, so that arrays of accumulators become registers.
#define LATENT_EXT_UNROLL _Pragma("GCC unroll 16")
#define LATENT_EXT_EACH_PART \
  LATENT_EXT_UNROLL          \
  for (int i = 0; i < kParts; ++i)

struct Flags {
  IntPart part[kParts];  // all bits or none
};

struct Words {
  WordPart part[kParts];

  LATENT_EXT_INLINE Words() {}
  LATENT_EXT_INLINE Words(uint32_t x) { LATENT_EXT_EACH_PART part[i] = x - WordPart{}; }
};

struct Floats {
  FloatPart part[kParts];

  LATENT_EXT_INLINE Floats() {}
  LATENT_EXT_INLINE Floats(float x) { LATENT_EXT_EACH_PART part[i] = x - FloatPart{}; }
};

#define LATENT_EXT_LANE_OPERATOR(Type, op)                           \
  LATENT_EXT_INLINE Type operator op(const Type& a, const Type& b) { \
    Type out;                                                        \
    LATENT_EXT_EACH_PART out.part[i] = a.part[i] op b.part[i];       \
    return out;                                                      \
  }
#define LATENT_EXT_LANE_COMPARISON(Type, op)                          \
  LATENT_EXT_INLINE Flags operator op(const Type& a, const Type& b) { \
    Flags out;                                                        \
    LATENT_EXT_EACH_PART out.part[i] = a.part[i] op b.part[i];        \
    return out;                                                       \
  }
LATENT_EXT_LANE_OPERATOR(Floats, +)
LATENT_EXT_LANE_OPERATOR(Floats, -)
LATENT_EXT_LANE_OPERATOR(Floats, *)
LATENT_EXT_LANE_OPERATOR(Floats, /)
LATENT_EXT_LANE_OPERATOR(Words, +)
LATENT_EXT_LANE_OPERATOR(Words, -)
LATENT_EXT_LANE_OPERATOR(Words, &)
LATENT_EXT_LANE_OPERATOR(Words, |)
LATENT_EXT_LANE_OPERATOR(Words, ^)
LATENT_EXT_LANE_COMPARISON(Floats, <)
LATENT_EXT_LANE_COMPARISON(Floats, >)
LATENT_EXT_LANE_COMPARISON(Floats, <=)
LATENT_EXT_LANE_COMPARISON(Floats, !=)
LATENT_EXT_LANE_COMPARISON(Words, <)
LATENT_EXT_LANE_COMPARISON(Words, <=)
#undef LATENT_EXT_LANE_OPERATOR
#undef LATENT_EXT_LANE_COMPARISON

LATENT_EXT_INLINE Words operator~(const Words& a) {
  Words out;
  LATENT_EXT_EACH_PART out.part[i] = ~a.part[i];
  return out;
}

LATENT_EXT_INLINE Words operator>>(const Words& a, int count) {
  Words out;
  LATENT_EXT_EACH_PART out.part[i] = a.part[i] >> count;
  return out;
}

LATENT_EXT_INLINE Words operator<<(const Words& a, int count) {
  Words out;
  LATENT_EXT_EACH_PART out.part[i] = a.part[i] << count;
  return out;
}

LATENT_EXT_INLINE Floats operator-(const Floats& a) {
  Floats out;
  LATENT_EXT_EACH_PART out.part[i] = -a.part[i];
  return out;
}

LATENT_EXT_INLINE Words bits_of(const Floats& x) {
  Words out;
  LATENT_EXT_EACH_PART out.part[i] = (WordPart)x.part[i];
  return out;
}

LATENT_EXT_INLINE Floats float_of_bits(const Words& bits) {
  Floats out;
  LATENT_EXT_EACH_PART out.part[i] = (FloatPart)bits.part[i];
  return out;
}

LATENT_EXT_INLINE Floats float_of_int(const Words& two_complement) {
  Floats out;
  LATENT_EXT_EACH_PART out.part[i] = __builtin_convertvector((IntPart)two_complement.part[i], FloatPart);
  return out;
}

LATENT_EXT_INLINE Words floor_to_int(const Floats& x) {
  Words out;
  LATENT_EXT_EACH_PART {
    const IntPart truncated = __builtin_convertvector(x.part[i], IntPart);
    // a true comparison is -1
    out.part[i] =
        (WordPart)(truncated + (IntPart)(__builtin_convertvector(truncated, FloatPart) > x.part[i]));
  }
  return out;
}

LATENT_EXT_INLINE Flags operator&(const Flags& a, const Flags& b) {
  Flags out;
  LATENT_EXT_EACH_PART out.part[i] = a.part[i] & b.part[i];
  return out;
}

LATENT_EXT_INLINE Flags operator|(const Flags& a, const Flags& b) {
  Flags out;
  LATENT_EXT_EACH_PART out.part[i] = a.part[i] | b.part[i];
  return out;
}

LATENT_EXT_INLINE Floats select(const Flags& condition, const Floats& yes, const Floats& no) {
  Floats out;
  LATENT_EXT_EACH_PART out.part[i] = condition.part[i] ? yes.part[i] : no.part[i];
  return out;
}

LATENT_EXT_INLINE Words select(const Flags& condition, const Words& yes, const Words& no) {
  Words out;
  LATENT_EXT_EACH_PART out.part[i] = condition.part[i] ? yes.part[i] : no.part[i];
  return out;
}

LATENT_EXT_INLINE Floats square_root(const Floats& x) {
  Floats out;
  LATENT_EXT_EACH_PART {
#if defined(__AVX512F__)
    out.part[i] = _mm512_sqrt_ps(x.part[i]);
#elif defined(__AVX2__)
    out.part[i] = _mm256_sqrt_ps(x.part[i]);
#elif defined(__x86_64__)
    out.part[i] = _mm_sqrt_ps(x.part[i]);
#else
    for (int lane = 0; lane < kPartLanes; ++lane) out.part[i][lane] = __builtin_sqrtf(x.part[i][lane]);
#endif
  }
  return out;
}

// a * b + c: one rounding at avx2 and avx512, two at `default`.
LATENT_EXT_INLINE FloatPart multiply_add(FloatPart a, FloatPart b, FloatPart c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

LATENT_EXT_INLINE Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  Floats out;
  LATENT_EXT_EACH_PART out.part[i] = multiply_add(a.part[i], b.part[i], c.part[i]);
  return out;
}

LATENT_EXT_INLINE Words lane_numbers() {
  Words out;
  LATENT_EXT_EACH_PART for (int lane = 0; lane < kPartLanes; ++lane) out.part[i][lane] =
      i * kPartLanes + lane;
  return out;
}

LATENT_EXT_INLINE FloatPart load_part(const float* from) {
  return *reinterpret_cast<const UnalignedFloatPart*>(from);
}

LATENT_EXT_INLINE Floats load_lanes(const float* from) {
  Floats out;
  LATENT_EXT_EACH_PART out.part[i] = load_part(from + i * kPartLanes);
  return out;
}

LATENT_EXT_INLINE void store_lanes(float* to, const Floats& x) {
  LATENT_EXT_EACH_PART* reinterpret_cast<UnalignedFloatPart*>(to + i * kPartLanes) = x.part[i];
}

LATENT_EXT_INLINE void store_lanes(uint32_t* to, const Words& x) {
  LATENT_EXT_EACH_PART* reinterpret_cast<UnalignedWordPart*>(to + i * kPartLanes) = x.part[i];
}

// Lanes are added pairwise: i with i + 8, then 4, 2, 1.
LATENT_EXT_INLINE float sum_of_lanes(const Floats& x) {
#if defined(__x86_64__)
#if defined(__AVX512F__)
  const __m256 eight = _mm512_castps512_ps256(x.part[0]) + _mm512_extractf32x8_ps(x.part[0], 1);
#elif defined(__AVX2__)
  const __m256 eight = x.part[0] + x.part[1];
#endif
#if defined(__AVX2__)
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#else
  const __m128 four = (x.part[0] + x.part[2]) + (x.part[1] + x.part[3]);
#endif
  const __m128 two = four + _mm_movehl_ps(four, four);
  return _mm_cvtss_f32(two) + _mm_cvtss_f32(_mm_shuffle_ps(two, two, 1));
#else
  float lane[16];
  store_lanes(lane, x);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
#endif
}

// The largest lane that is not NaN, -inf if there is none.
LATENT_EXT_INLINE float largest_lane(const Floats& x) {
  float lane[16];
  store_lanes(lane, x);
  float largest = -__builtin_inff();
  for (int i = 0; i < 16; ++i) largest = lane[i] > largest ? lane[i] : largest;
  return largest;
}

LATENT_EXT_NAMESPACE_END
