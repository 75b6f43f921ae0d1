// Runs CUDA device code on the host, one fiber per CUDA thread, so that kernels can be tested where there is
// no GPU.
//
// The .cuh files of csrc/cuda are plain C++ once __global__, __device__ and threadIdx mean something; this
// header gives them a meaning, and simt_scheduler.h runs them. What a test gains over a sequential emulation:
//
// Order is an input. Within one phase (between two __syncthreads) threads run in an order drawn from the
// seed, one at a time until they wait or return: sometimes whole warps after one another, sometimes all
// threads mixed. A kernel that forgot a barrier gives different results for different seeds, where a fixed
// round-robin would hide it. In a cooperative launch all blocks are resident; between two waits for the grid
// they run in an order drawn anew, and a block that returns while others wait for it is an error.
//
// Shared memory starts as 0xFF bytes, which is NaN in fp32 and bf16, and has exactly the size the launch
// asked for, so AddressSanitizer sees one byte too many.
//
// __syncthreads must be reached by every thread of the block at the same line, and a warp operation by
// exactly the lanes its mask names. Anything else throws std::runtime_error that says who waits where.
//
// Not modelled: memory-order races between two accesses of the same phase that happen to agree, tensor cores
// (kernels bring a twin in plain loops), asynchronous copies, __shared__ variables (kernels take everything
// from dynamic_shared()), blocks that are not one-dimensional.
#pragma once

#include <cmath>

#include "simt_scheduler.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __noinline__

struct __attribute__((may_alias, aligned(16))) uint4 {
  unsigned x, y, z, w;
};
struct __attribute__((may_alias, aligned(8))) uint2 {
  unsigned x, y;
};

// The builtin line and file of a default argument are those of the call.
#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_SITE) {
  simt::Scheduler::instance().barrier({file, line});
}

namespace simt {

// All threads of all blocks of a cooperative launch.
inline void grid_barrier(SIMT_SITE) {
  Scheduler::instance().grid_barrier({file, line});
}

// What every lane of the warp gives, to all of them. Lanes hand over where it lies; the second exchange keeps
// it there until all have read it.
template <typename T>
void gather_warp(const T& mine, T (&all)[kWarp], SIMT_SITE) {
  const uint64_t* peers =
      Scheduler::instance().exchange(0xFFFFFFFFu, reinterpret_cast<uint64_t>(&mine), {file, line});
  for (unsigned lane = 0; lane < kWarp; ++lane) all[lane] = *reinterpret_cast<const T*>(peers[lane]);
  Scheduler::instance().exchange(0xFFFFFFFFu, 0, {file, line});
}

}  // namespace simt

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, SIMT_SITE) {
  simt::Scheduler::instance().exchange(mask, 0, {file, line});
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, SIMT_SITE) {
  const uint64_t* peers = simt::Scheduler::instance().exchange(mask, simt::bits_of(value), {file, line});
  return simt::peer_value<T>(peers, mask, unsigned(source) % simt::kWarp, {file, line});
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, SIMT_SITE) {
  const uint64_t* peers = simt::Scheduler::instance().exchange(mask, simt::bits_of(value), {file, line});
  return simt::peer_value<T>(peers, mask, (simt::lane() ^ unsigned(lane_mask)) % simt::kWarp, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, bool predicate, SIMT_SITE) {
  const uint64_t* peers = simt::Scheduler::instance().exchange(mask, predicate, {file, line});
  unsigned votes = 0;
  for (unsigned lane = 0; lane < simt::kWarp; ++lane)
    if (mask >> lane & 1) votes |= unsigned(peers[lane] != 0) << lane;
  return votes;
}

inline int __popc(unsigned word) {
  return __builtin_popcount(word);
}

namespace latent_ext {
inline unsigned char* dynamic_shared() {
  return simt::Scheduler::instance().shared();
}
}  // namespace latent_ext
