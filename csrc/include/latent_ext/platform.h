// What every header here may rely on: one source serves plain C++, the CPU kernels at each ISA level, the
// host SIMT shim and nvcc.
//
// A translation unit that is compiled for one ISA level defines LATENT_EXT_ISA (isa_default, isa_avx2,
// isa_avx512). Everything in these headers then lands in that inline namespace, so the linker can never
// replace a baseline copy of an inline function by one that was compiled with wider instructions.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define LATENT_EXT_HOST_DEVICE __host__ __device__
#define LATENT_EXT_INLINE __forceinline__
#else
#ifndef LATENT_EXT_HOST_DEVICE
#define LATENT_EXT_HOST_DEVICE
#endif
#define LATENT_EXT_INLINE inline __attribute__((always_inline))
#endif

#if defined(LATENT_EXT_ISA)
#define LATENT_EXT_NAMESPACE_BEGIN \
  namespace latent_ext {           \
  inline namespace LATENT_EXT_ISA {
#define LATENT_EXT_NAMESPACE_END \
  }                              \
  }
#else
#define LATENT_EXT_NAMESPACE_BEGIN namespace latent_ext {
#define LATENT_EXT_NAMESPACE_END }
#endif
