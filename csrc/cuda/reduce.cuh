// Sums in a fixed order: butterflies within a warp, then the same butterfly over the warps' sums. Every
// thread gets the same bits, and the order depends on the size of the team only, never on the grid.
#pragma once

#include "device.cuh"

namespace latent_ext {

constexpr int kMaxWarps = 32;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int lane_mask = kWarpThreads / 2; lane_mask > 0; lane_mask /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, lane_mask);
  }
  return value;
}

// The threads that share a row: a whole block, or one of its warps. sum() is called by all of them.
struct BlockTeam {
  float* warp_sums;  // [sums][kMaxWarps] in shared memory; a slot of its own for every sum, so one barrier is
                     // enough

  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ float sum(float value, int slot) const {
    float* const sums = warp_sums + slot * kMaxWarps;
    const int lane = thread() % kWarpThreads;
    value = warp_sum(value);
    if (lane == 0) sums[thread() / kWarpThreads] = value;
    __syncthreads();
    return warp_sum(lane < threads() / kWarpThreads ? sums[lane] : 0.0f);
  }
};

struct WarpTeam {
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x) % kWarpThreads; }
  __device__ __forceinline__ int threads() const { return kWarpThreads; }
  __device__ __forceinline__ float sum(float value, int) const { return warp_sum(value); }
};

}  // namespace latent_ext
