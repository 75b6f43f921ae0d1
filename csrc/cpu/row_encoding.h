// Rows of fp32 as the products of a weight format read them.
//
// bfloat16 rounds to nearest even. int8 divides by the row's largest magnitude / 127 (dynamic per-row scale)
// and rounds to nearest even; values are stored + 128, as VNNI wants its first operand unsigned. Inputs past
// the end of a row are zeros.
#pragma once

#include "lane_loops.h"
#include "packed_linear.h"

LATENT_EXT_NAMESPACE_BEGIN

typedef uint8_t BytePart __attribute__((vector_size(LATENT_EXT_PART_BYTES / 4)));
typedef uint8_t UnalignedBytePart
    __attribute__((vector_size(LATENT_EXT_PART_BYTES / 4), aligned(1), may_alias));

LATENT_EXT_INLINE void store_bytes(uint8_t* to, const Words& x) {
  LATENT_EXT_EACH_PART {
    *reinterpret_cast<UnalignedBytePart*>(to + i * kPartLanes) = __builtin_convertvector(x.part[i], BytePart);
  }
}

LATENT_EXT_INLINE Floats magnitude(const Floats& x) {
  return float_of_bits(bits_of(x) & Words(0x7FFFFFFFu));
}

// The integer nearest to x, |x| < 2^22, ties to even, in two's complement.
LATENT_EXT_INLINE Words nearest_int(const Floats& x) {
  const float shift = 12582912.0f;  // 1.5 * 2^23: the low mantissa bits become the integer
  return bits_of(x + Floats(shift)) - bits_of(Floats(shift));
}

LATENT_EXT_INLINE void encode_bfloat16(const float* x, int64_t count, uint32_t* out) {
  BFloat16* to = reinterpret_cast<BFloat16*>(out);
  each_sixteen(count, [&](int64_t i, int64_t left)
                          LATENT_EXT_INLINE_LAMBDA { store_row(to + i, load_row(x + i, left), left); });
  if (count % 2 != 0) to[count].bits = 0;
}

// A row with a value that is not finite becomes NaN through its scale: nothing that it feeds can look
// healthy.
LATENT_EXT_INLINE float encode_int8(const float* x, int64_t count, uint32_t* out) {
  Floats largest(0.0f);
  Floats check(0.0f);
  each_sixteen(count, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
    const Floats value = load_row(x + i, left);
    const Floats size = magnitude(value);
    largest = select(size > largest, size, largest);
    check = check + (value - value);  // 0, or NaN for infinity and NaN
  });
  const float top = largest_lane(largest);
  const float checked = sum_of_lanes(check);
  const float scale = top / 127.0f;
  const Floats inverse(top > 0.0f ? 127.0f / top : 0.0f);
  uint8_t* to = reinterpret_cast<uint8_t*>(out);
  each_sixteen(count, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
    const Words value = nearest_int(load_row(x + i, left) * inverse) + Words(128u);
    if (left >= kLanes) {
      store_bytes(to + i, value);
    } else {
      uint8_t bytes[kLanes];
      store_bytes(bytes, value);
      for (int64_t lane = 0; lane < left; ++lane) to[i + lane] = bytes[lane];
    }
  });
  for (int64_t i = count; i % 4 != 0; ++i) to[i] = 128;
  return checked == 0.0f ? scale : checked;
}

// words: [rows, stride]; scales: [rows], for int8.
inline void encode_rows(WeightFormat format, const float* rows, int64_t row_stride, int64_t count,
                        int64_t inputs, uint32_t* words, int64_t stride, float* scales) {
  for (int64_t r = 0; r < count; ++r) {
    const float* row = rows + r * row_stride;
    uint32_t* to = words + r * stride;
    if (format == WeightFormat::kBFloat16) {
      encode_bfloat16(row, inputs, to);
    } else if (format == WeightFormat::kInt8) {
      scales[r] = encode_int8(row, inputs, to);
    }
  }
}

LATENT_EXT_NAMESPACE_END
