// All blocks of a cooperative launch wait for one another. Thread 0 of each block counts its arrival with a
// release and watches the count with acquires; with the block's own barriers before and after, what any
// thread wrote before is seen by every thread behind (PTX memory model: release and acquire patterns are
// cumulative).
#pragma once

#include "../device.cuh"

namespace latent_ext {

class GridWait {
 public:
  // arrived: zero when the kernel starts.
  __device__ explicit GridWait(unsigned* arrived) : arrived_(arrived) {}

  // Thread 0 of each block calls `meanwhile` while the others of its block wait for it.
  template <typename F>
  __device__ __forceinline__ void operator()(const F& meanwhile) {
#if defined(__CUDACC__)
    __syncthreads();
    if (threadIdx.x == 0) {
      goal_ += gridDim.x;
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived_) : "memory");
      meanwhile();
      unsigned seen;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived_) : "memory");
      } while (static_cast<int>(seen - goal_) < 0);
    }
    __syncthreads();
#else
    simt::grid_barrier();
    if (threadIdx.x == 0) meanwhile();
    __syncthreads();
#endif
  }

 private:
  unsigned* arrived_;
  unsigned goal_ = 0;
};

}  // namespace latent_ext
