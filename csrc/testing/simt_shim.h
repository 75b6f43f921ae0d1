// Runs CUDA device code on the host, one fiber per CUDA thread, so that kernels can be tested where there is
// no GPU.
//
// The .cuh files of csrc/cuda are plain C++ once __global__, __device__ and threadIdx mean something; this
// header gives them a meaning. What a test gains over a sequential emulation:
//
//  * Order is an input. Within one phase (between two __syncthreads) threads run in an order drawn from the
//  seed, one at a
//    time until they wait or return: sometimes whole warps after one another, sometimes all threads mixed. A
//    kernel that forgot a barrier gives different results for different seeds, where a fixed round-robin
//    would hide it.
//  * Shared memory starts as 0xFF bytes, which is NaN in fp32 and bf16, and has exactly the size the launch
//  asked for, so
//    AddressSanitizer sees one byte too many.
//  * __syncthreads must be reached by every thread of the block at the same line, and a warp operation by
//  exactly the
//    lanes its mask names. Anything else throws std::runtime_error that says who waits where.
//
// Not modelled: memory-order races between two accesses of the same phase that happen to agree, tensor cores,
// asynchronous copies, more than one block at a time, __shared__ variables (kernels take everything from
// dynamic_shared()), blocks that are not one-dimensional.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct __attribute__((may_alias, aligned(16))) uint4 {
  unsigned x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;

enum class State { kRunnable, kAtBarrier, kAtWarpOp, kReturned };

struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const {
    return line == other.line && std::strcmp(file, other.file) == 0;
  }
  std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::kRunnable;
  Site site{"", 0};
  unsigned mask = 0;      // lanes taking part in the warp operation this fiber waits at
  uint64_t value = 0;     // what this lane gives
  uint64_t peers[kWarp];  // what every lane of the mask gave
  uint64_t priority = 0;
};

class Scheduler {
 public:
  static Scheduler& instance() {
    static Scheduler scheduler;
    return scheduler;
  }

  void launch(dim3 grid, unsigned threads, size_t shared_bytes, uint64_t seed,
              const std::function<void()>& kernel) {
    if (threads == 0 || threads > 1024 || threads % kWarp != 0)
      throw std::runtime_error("block size must be a multiple of 32 in [32, 1024], got " +
                               std::to_string(threads));
    random_.seed(seed);
    kernel_ = &kernel;
    gridDim = grid;
    blockDim = {threads, 1, 1};
    std::vector<uint64_t> blocks(uint64_t{grid.x} * grid.y * grid.z);
    for (uint64_t b = 0; b < blocks.size(); ++b) blocks[b] = b;
    std::shuffle(blocks.begin(), blocks.end(), random_);
    for (uint64_t b : blocks) {
      blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
      run_block(threads, shared_bytes);
    }
  }

  unsigned char* shared() { return shared_.get(); }

  void barrier(Site site) { wait(State::kAtBarrier, site); }

  // Waits until every lane of `mask` has come to this operation; returns what each of them gave.
  const uint64_t* exchange(unsigned mask, uint64_t value, Site site) {
    Fiber& self = *fibers_[current_];
    self.mask = mask;
    self.value = value;
    wait(State::kAtWarpOp, site);
    return self.peers;
  }

  void fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

 private:
  void run_block(unsigned threads, size_t shared_bytes) {
    shared_.reset(new unsigned char[shared_bytes]);
    std::memset(shared_.get(), 0xFF, shared_bytes);
    while (fibers_.size() < threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack.reset(new char[kStackBytes]);
    }
    threads_ = threads;
    error_.clear();
    ready_.clear();
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& fiber = *fibers_[t];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_context_;
      makecontext(&fiber.context, &Scheduler::enter, 0);
    }
    unsigned returned = 0;
    begin_phase();
    while (returned < threads) {
      if (ready_.empty()) release_barrier();
      current_ = pop_ready();
      threadIdx = {current_, 0, 0};
      Fiber& fiber = *fibers_[current_];
      swapcontext(&scheduler_context_, &fiber.context);
      if (!error_.empty()) throw std::runtime_error("block " + std::to_string(blockIdx.x) + ": " + error_);
      if (fiber.state == State::kReturned) ++returned;
      if (fiber.state == State::kAtWarpOp) try_complete_warp_op(current_);
    }
  }

  static void enter() {
    Scheduler& scheduler = instance();
    (*scheduler.kernel_)();
    scheduler.fibers_[scheduler.current_]->state = State::kReturned;
  }

  void wait(State state, Site site) {
    Fiber& self = *fibers_[current_];
    self.state = state;
    self.site = site;
    swapcontext(&self.context, &scheduler_context_);
  }

  // Strict priorities, drawn anew in each phase, reach the extreme orders (one warp runs to its barrier
  // before another has begun) that picking a random thread at every step almost never does.
  void begin_phase() {
    const bool warp_after_warp = random_() & 1;
    std::vector<uint64_t> warp_priority(threads_ / kWarp);
    for (uint64_t& priority : warp_priority) priority = random_() >> 32;
    for (unsigned t = 0; t < threads_; ++t) {
      fibers_[t]->priority = random_() >> 32;
      if (warp_after_warp) fibers_[t]->priority |= warp_priority[t / kWarp] << 32;
      make_ready(t);
    }
  }

  void make_ready(unsigned t) {
    fibers_[t]->state = State::kRunnable;
    ready_.emplace_back(fibers_[t]->priority, t);
    std::push_heap(ready_.begin(), ready_.end());
  }

  unsigned pop_ready() {
    std::pop_heap(ready_.begin(), ready_.end());
    const unsigned t = ready_.back().second;
    ready_.pop_back();
    return t;
  }

  void release_barrier() {
    const Site site = fibers_[0]->site;
    for (unsigned t = 0; t < threads_; ++t)
      if (fibers_[t]->state != State::kAtBarrier || !(fibers_[t]->site == site)) throw_stuck();
    begin_phase();
  }

  void try_complete_warp_op(unsigned arrived) {
    const Fiber& last = *fibers_[arrived];
    const unsigned first = arrived / kWarp * kWarp;
    if (!(last.mask >> (arrived - first) & 1))
      throw std::runtime_error("warp operation at " + last.site.text() +
                               ": its mask does not name the calling lane");
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(last.mask >> lane & 1)) continue;
      const Fiber& fiber = *fibers_[first + lane];
      if (fiber.state != State::kAtWarpOp || !(fiber.site == last.site) || fiber.mask != last.mask) return;
    }
    uint64_t given[kWarp];
    for (unsigned lane = 0; lane < kWarp; ++lane) given[lane] = fibers_[first + lane]->value;
    const unsigned mask = last.mask;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(mask >> lane & 1)) continue;
      std::memcpy(fibers_[first + lane]->peers, given, sizeof given);
      make_ready(first + lane);
    }
  }

  [[noreturn]] void throw_stuck() {
    std::vector<std::pair<std::string, unsigned>> groups;
    for (unsigned t = 0; t < threads_; ++t) {
      const Fiber& fiber = *fibers_[t];
      const std::string where = fiber.state == State::kReturned ? "returned"
                                : fiber.state == State::kAtBarrier
                                    ? "wait at the barrier " + fiber.site.text()
                                    : "wait at the warp operation " + fiber.site.text();
      auto known =
          std::find_if(groups.begin(), groups.end(), [&](const auto& group) { return group.first == where; });
      if (known == groups.end())
        groups.emplace_back(where, 1);
      else
        ++known->second;
    }
    std::string message = "block " + std::to_string(blockIdx.x) + ": barrier mismatch:";
    for (const auto& [where, count] : groups)
      message += " " + std::to_string(count) + " threads " + where + ";";
    throw std::runtime_error(message);
  }

  std::mt19937_64 random_;
  const std::function<void()>* kernel_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<std::pair<uint64_t, unsigned>> ready_;  // heap by priority
  std::unique_ptr<unsigned char[]> shared_;
  ucontext_t scheduler_context_;
  unsigned current_ = 0, threads_ = 0;
  std::string error_;
};

// Runs `kernel` (a call of a __global__ function with its arguments) for every thread of every block.
inline void launch(dim3 grid, unsigned threads, size_t shared_bytes, uint64_t seed,
                   const std::function<void()>& kernel) {
  Scheduler::instance().launch(grid, threads, shared_bytes, seed, kernel);
}

template <typename T>
T peer_value(const uint64_t* peers, unsigned mask, unsigned lane, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (!(mask >> lane & 1))
    Scheduler::instance().fail("shuffle at " + site.text() + " reads a lane outside its mask");
  T value;
  std::memcpy(&value, &peers[lane], sizeof(T));
  return value;
}

template <typename T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

inline unsigned lane() {
  return threadIdx.x % kWarp;
}

}  // namespace simt

// The builtin line and file of a default argument are those of the call.
#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_SITE) {
  simt::Scheduler::instance().barrier({file, line});
}

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
