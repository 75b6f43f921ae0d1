// A row of a [rows, hidden] tensor as a block reads it: in packs of 16 bytes, pack p of the row belonging to
// thread p % blockDim.x whatever the alignment. Rows that cannot be read 16 bytes at a time (odd size,
// unaligned storage) take the element-wise path with the same ownership, so alignment never changes a result.
#pragma once

#include <initializer_list>

#include "device.cuh"
#include "latent_ext/bfloat16.h"

namespace latent_ext {

template <typename T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));  // 4 fp32 or 8 bf16

// Values of one pack in fp32; elements past the end of the row read as 0.
template <typename T>
struct Pack {
  float value[kPack<T>];
};

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* row, int first, int hidden, bool wide) {
  Pack<T> pack;
  if (wide) {
    const uint4 raw = *reinterpret_cast<const uint4*>(row + first);
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      if constexpr (sizeof(T) == 4) {
        pack.value[i] = float_of_bits(words[i]);
      } else {
        pack.value[i] = float_of_bits(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xFFFF0000u);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) pack.value[i] = first + i < hidden ? to_float(row[first + i]) : 0.0f;
  }
  return pack;
}

template <typename T>
__device__ __forceinline__ void store_pack(T* row, int first, int hidden, bool wide, const Pack<T>& pack) {
  if (wide) {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if constexpr (sizeof(T) == 4) {
        words[w] = bits_of(pack.value[w]);
      } else {
        words[w] = bfloat16_bits(pack.value[2 * w]) | bfloat16_bits(pack.value[2 * w + 1]) << 16;
      }
    }
    *reinterpret_cast<uint4*>(row + first) = uint4{words[0], words[1], words[2], words[3]};
  } else {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i)
      if (first + i < hidden) store_rounded(row + first + i, pack.value[i]);
  }
}

// Whether every row that starts at these pointers can be read in whole aligned packs.
template <typename T>
bool can_read_packs(int hidden, std::initializer_list<const void*> pointers) {
  if (hidden % kPack<T> != 0) return false;
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  return true;
}

constexpr int kRowThreads = 512;  // at most

// Depends on the row's size alone: the order of a reduction must not change with the number of rows.
template <typename T>
int row_block_threads(int hidden) {
  const int packs = (hidden + kPack<T> - 1) / kPack<T>;
  const int threads = (packs + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
  return threads < kWarpThreads ? kWarpThreads : threads > kRowThreads ? kRowThreads : threads;
}

}  // namespace latent_ext
