// Products of 16 rows and 8 outputs by one warp, the tile of the tensor cores' bf16 instruction. Lane (g, t)
// = (lane / 4, lane % 4) holds the sums of rows g and g + 8, outputs 2t and 2t + 1, in this order.
//
// Which input stands where in the instruction does not matter as long as rows and weights agree. So lane (g,
// t) takes 8 neighbouring inputs, 8t .. 8t + 7 of 32, which are 16 contiguous bytes of a row as PyTorch
// stores it: neither rows nor weights are rearranged, and neither passes through shared memory. With fp32
// storage there is no tensor core instruction of full precision; the same lanes form the same sums by fma, 4
// inputs at a time.
#pragma once

#include "../row.cuh"

namespace latent_ext {

constexpr int kTileRows = 16, kTileOutputs = 8;

// Inputs that a warp takes at a time.
template <typename T>
constexpr int kTileInputs = sizeof(T) == 2 ? 32 : 4;

struct Words {
  uint32_t word[4];
};

// 16 bytes of inputs from `first` on; zero from `end` on.
template <typename T>
__device__ __forceinline__ Words load_inputs(const T* row, int first, int end, bool wide) {
  Words words = {{0, 0, 0, 0}};
  if (wide) {
    if (first < end) {
      const uint4 raw = *reinterpret_cast<const uint4*>(row + first);
      words = {{raw.x, raw.y, raw.z, raw.w}};
    }
    return words;
  }
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    if (first + i >= end) continue;
    if constexpr (sizeof(T) == 4) {
      words.word[i] = bits_of(row[first + i]);
    } else {
      words.word[i / 2] |= static_cast<uint32_t>(row[first + i].bits) << (i % 2 * 16);
    }
  }
  return words;
}

// The same of weights, which stay as they are while the kernel runs and are read once: past the L1 cache.
template <typename T>
__device__ __forceinline__ Words load_weights(const T* row, int first, int end, bool wide) {
#if defined(__CUDACC__)
  if (wide) {
    Words words = {{0, 0, 0, 0}};
    if (first < end) {
      asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
          : "=r"(words.word[0]), "=r"(words.word[1]), "=r"(words.word[2]), "=r"(words.word[3])
          : "l"(row + first));
    }
    return words;
  }
#endif
  return load_inputs(row, first, end, wide);
}

#if !defined(__CUDACC__)
struct TileOperands {
  uint32_t a[4], b[2];
};

inline float half_of(uint32_t word, int half) {
  return float_of_bits(half == 0 ? word << 16 : word & 0xFFFF0000u);
}
#endif

// sums += 16 inputs of a [16 rows] times b [8 outputs]. a: (row g, inputs 0..1), (row g + 8, 0..1), (row
// g, 2..3), (row g + 8, 2..3) of this lane's four; b: inputs 0..1, 2..3 of output g.
__device__ __forceinline__ void multiply_halves(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1) {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  __trap();  // the launcher refuses bf16 below compute capability 8.0
#endif
#else
  // The twin in plain loops: every lane sees what all lanes hold.
  const TileOperands mine = {{a0, a1, a2, a3}, {b0, b1}};
  TileOperands all[kWarpThreads];
  simt::gather_warp(mine, all);
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  for (int row_half = 0; row_half < 2; ++row_half) {
    for (int column = 0; column < 2; ++column) {
      float& sum = sums[2 * row_half + column];
      for (int k = 0; k < 16; ++k) {
        const int word = k % 4 / 2, lane = k / 4;
        const float a = half_of(all[4 * g + lane].a[row_half + 2 * word], k % 2);
        const float b = half_of(all[4 * (2 * t + column) + lane].b[word], k % 2);
        sum = fmaf(a, b, sum);
      }
    }
  }
#endif
}

}  // namespace latent_ext
