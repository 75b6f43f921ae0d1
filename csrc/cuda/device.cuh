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

constexpr unsigned kWholeWarp = 0xFFFFFFFFu;
constexpr int kWarpThreads = 32;
constexpr size_t kPlainSharedBytes =
    48 * 1024;  // dynamic shared memory any architecture gives without opting in

}  // namespace latent_ext
