// What device code may rely on: the CUDA language, or csrc/testing/simt_shim.h where a host compiler reads
// the same file.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>

namespace latent_ext {

// All shared memory is dynamic: the shim can then poison it and bound it exactly.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

}  // namespace latent_ext
#else
#include "../testing/simt_shim.h"
#endif

namespace latent_ext {

// 16 bytes from global into shared memory while the thread goes on; zeros where `there` is false. What a
// thread has committed becomes visible to itself, group by group in order, in wait_copies.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool there) {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(there ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) = there ? *static_cast<const uint4*>(global) : uint4{0, 0, 0, 0};
#endif
#else
  simt::copy_async(shared, global, 16, there);
#endif
}

__device__ __forceinline__ void commit_copies() {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
#else
  simt::commit_copies();
#endif
}

constexpr int kMostPendingCopies = 4;

// Until at most `pending` of this thread's groups, its latest, are under way; pending in [0,
// kMostPendingCopies].
__device__ __forceinline__ void wait_copies(int pending) {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  switch (pending) {
    case 0:
      asm volatile("cp.async.wait_group 0;" ::: "memory");
      return;
    case 1:
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      return;
    case 2:
      asm volatile("cp.async.wait_group 2;" ::: "memory");
      return;
    case 3:
      asm volatile("cp.async.wait_group 3;" ::: "memory");
      return;
    default:
      asm volatile("cp.async.wait_group 4;" ::: "memory");
  }
#else
  static_cast<void>(pending);
#endif
#else
  simt::wait_copies(pending);
#endif
}

// The same number, of which the compiler knows nothing: what follows from it is computed where it is used,
// not kept in registers from where it was computed before.
__device__ __forceinline__ int forgotten(int number) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(number));
#endif
  return number;
}

constexpr unsigned kWholeWarp = 0xFFFFFFFFu;
constexpr int kWarpThreads = 32;
constexpr size_t kPlainSharedBytes =
    48 * 1024;  // dynamic shared memory any architecture gives without opting in

}  // namespace latent_ext
