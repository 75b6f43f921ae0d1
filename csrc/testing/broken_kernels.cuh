// Kernels with the mistakes the SIMT shim exists to find. Each is right but for one line; none is part of the
// library.
#pragma once

#include "cuda/rollout/grid_wait.cuh"

namespace latent_ext {

// out: [blockDim.x], the input reversed through shared memory. Without its barrier a thread may read before
// the other wrote.
__global__ void reverse_without_barrier_kernel(const float* in, float* out, bool with_barrier) {
  auto* values = reinterpret_cast<float*>(dynamic_shared());
  values[threadIdx.x] = in[threadIdx.x];
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

// out: [blocks, blockDim.x], the blocks of the input reversed through `middle`. Without its wait a block may
// read before the other wrote.
__global__ void reverse_blocks_kernel(const float* in, float* middle, float* out, bool with_wait) {
  const unsigned mine = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned other = (gridDim.x - 1 - blockIdx.x) * blockDim.x + threadIdx.x;
  GridWait grid_wait(nullptr);
  middle[mine] = in[mine];
  if (with_wait) grid_wait([] {});
  out[mine] = middle[other];
}

// The first block does not come where the others wait for it.
__global__ void absent_block_kernel(float* out) {
  GridWait grid_wait(nullptr);
  if (blockIdx.x != 0) grid_wait([] {});
  out[threadIdx.x] = 1.0f;
}

// Half of the block waits for the grid, half for the block.
__global__ void half_block_waits_kernel(float* out) {
  GridWait grid_wait(nullptr);
  if (threadIdx.x < blockDim.x / 2) {
    grid_wait([] {});
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

// Half of the block returns where the other half waits.
__global__ void early_return_kernel(float* out) {
  if (threadIdx.x >= blockDim.x / 2) return;
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}

// Both halves wait, but not for each other.
__global__ void two_barriers_kernel(float* out) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

// A shuffle names all lanes of the warp, and half of them never come.
__global__ void half_warp_shuffle_kernel(float* out) {
  float value = 1.0f;
  if (threadIdx.x % kWarpThreads < kWarpThreads / 2) value += __shfl_xor_sync(kWholeWarp, value, 1);
  out[threadIdx.x] = value;
}

// A shuffle whose mask leaves out a lane that it reads.
__global__ void narrow_mask_kernel(float* out) {
  float value = 1.0f;
  if (threadIdx.x % kWarpThreads < 2) value += __shfl_xor_sync(0x3u, value, 2);
  out[threadIdx.x] = value;
}

// Writes one element past the shared memory the launch asked for; only AddressSanitizer sees it.
__global__ void past_shared_memory_kernel(float* out) {
  auto* values = reinterpret_cast<float*>(dynamic_shared());
  values[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

}  // namespace latent_ext
