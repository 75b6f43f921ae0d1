// Sixteen elements of float32 or bfloat16 storage to and from fp32 lanes, whole or cut off at the end of a
// row. Nothing is read or written past the end.
#pragma once

#include "latent_ext/bfloat16.h"
#include "vec16.h"

LATENT_EXT_NAMESPACE_BEGIN

constexpr int kLanes = 16;

typedef uint16_t HalfPart __attribute__((vector_size(LATENT_EXT_PART_BYTES / 2)));
typedef uint16_t UnalignedHalfPart
    __attribute__((vector_size(LATENT_EXT_PART_BYTES / 2), aligned(2), may_alias));

LATENT_EXT_INLINE FloatPart load_part(const BFloat16* from) {
  const HalfPart half = *reinterpret_cast<const UnalignedHalfPart*>(from);
  return (FloatPart)(__builtin_convertvector(half, WordPart) << 16);
}

LATENT_EXT_INLINE Floats load_lanes(const BFloat16* from) {
  Floats out;
  LATENT_EXT_EACH_PART out.part[i] = load_part(from + i * kPartLanes);
  return out;
}

LATENT_EXT_INLINE void store_lanes(BFloat16* to, const Floats& x) {
  const Words bits = bfloat16_bits(x);
  LATENT_EXT_EACH_PART {
    *reinterpret_cast<UnalignedHalfPart*>(to + i * kPartLanes) =
        __builtin_convertvector(bits.part[i], HalfPart);
  }
}

// The first count lanes, 0 < count < 16; the others are 0.
template <class Storage>
LATENT_EXT_INLINE Floats load_first(const Storage* from, int count) {
  Storage lane[kLanes];
  __builtin_memset(lane, 0, sizeof(lane));
  for (int i = 0; i < count; ++i) lane[i] = from[i];
  return load_lanes(lane);
}

template <class Storage>
LATENT_EXT_INLINE void store_first(Storage* to, const Floats& x, int count) {
  Storage lane[kLanes];
  store_lanes(lane, x);
  for (int i = 0; i < count; ++i) to[i] = lane[i];
}

// remaining: elements left in the row, at least 1.
template <class Storage>
LATENT_EXT_INLINE Floats load_row(const Storage* from, int64_t remaining) {
  return remaining >= kLanes ? load_lanes(from) : load_first(from, static_cast<int>(remaining));
}

template <class Storage>
LATENT_EXT_INLINE void store_row(Storage* to, const Floats& x, int64_t remaining) {
  if (remaining >= kLanes) {
    store_lanes(to, x);
  } else {
    store_first(to, x, static_cast<int>(remaining));
  }
}

// x with 0 in the lanes past the end of the row.
LATENT_EXT_INLINE Floats zero_past_end(const Floats& x, int64_t remaining) {
  if (remaining >= kLanes) return x;
  return select(lane_numbers() < Words(static_cast<uint32_t>(remaining)), x, Floats(0.0f));
}

LATENT_EXT_NAMESPACE_END
