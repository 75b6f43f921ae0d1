// Fibers, blocks and grids of the SIMT shim (simt_shim.h says what they are for).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

constexpr unsigned kWarp = 32;

enum class State { kRunnable, kAtBarrier, kAtGridBarrier, kAtWarpOp, kReturned };

struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const {
    return line == other.line && std::strcmp(file, other.file) == 0;
  }
  std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

// An asynchronous copy that has not been waited for.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool there;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  State state = State::kRunnable;
  Site site{"", 0};
  unsigned mask = 0;      // lanes taking part in the warp operation this fiber waits at
  uint64_t value = 0;     // what this lane gives
  uint64_t peers[kWarp];  // what every lane of the mask gave
  uint64_t priority = 0;
  std::vector<std::vector<Copy>> copies;  // groups; the last one is not committed yet
};

// The threads of one block, and what they share.
class Block {
 public:
  // Poisons the shared memory and puts every thread at the start of `entry`.
  void begin(dim3 index, unsigned threads, size_t shared_bytes, void (*entry)()) {
    index_ = index;
    returned_ = 0;
    shared_.reset(new unsigned char[shared_bytes]);
    std::memset(shared_.get(), 0xFF, shared_bytes);
    while (fibers_.size() < threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack.reset(new char[kStackBytes]);
    }
    fibers_.resize(threads);
    ready_.clear();
    for (auto& fiber : fibers_) {
      fiber->copies.assign(1, {});
      fiber->context.begin(fiber->stack.get(), entry);
    }
  }

  // Strict priorities, drawn anew in each phase, reach the extreme orders (one warp runs to its barrier
  // before another has begun) that picking a random thread at every step almost never does.
  void begin_phase(std::mt19937_64& random) {
    const bool warp_after_warp = random() & 1;
    std::vector<uint64_t> warp_priority(fibers_.size() / kWarp);
    for (uint64_t& priority : warp_priority) priority = random() >> 32;
    for (unsigned t = 0; t < fibers_.size(); ++t) {
      fibers_[t]->priority = random() >> 32;
      if (warp_after_warp) fibers_[t]->priority |= warp_priority[t / kWarp] << 32;
      make_ready(t);
    }
  }

  bool has_ready() const { return !ready_.empty(); }
  bool returned() const { return returned_ == fibers_.size(); }
  dim3 index() const { return index_; }
  unsigned threads() const { return static_cast<unsigned>(fibers_.size()); }
  unsigned char* shared() { return shared_.get(); }
  Fiber& fiber(unsigned thread) { return *fibers_[thread]; }

  unsigned pop_ready() {
    std::pop_heap(ready_.begin(), ready_.end());
    const unsigned t = ready_.back().second;
    ready_.pop_back();
    return t;
  }

  // What to do with a thread that has stopped running.
  void stopped(unsigned thread) {
    if (fibers_[thread]->state == State::kReturned) ++returned_;
    if (fibers_[thread]->state == State::kAtWarpOp) try_complete_warp_op(thread);
  }

  // Whether all threads wait at the same place of this kind.
  bool all_wait(State state) const {
    return std::all_of(fibers_.begin(), fibers_.end(), [&](const auto& fiber) {
      return fiber->state == state && fiber->site == fibers_[0]->site;
    });
  }

  Site site() const { return fibers_[0]->site; }

  [[noreturn]] void throw_stuck() const {
    std::vector<std::pair<std::string, unsigned>> groups;
    for (const auto& fiber : fibers_) {
      const std::string where = where_is(*fiber);
      auto known =
          std::find_if(groups.begin(), groups.end(), [&](const auto& group) { return group.first == where; });
      if (known == groups.end())
        groups.emplace_back(where, 1);
      else
        ++known->second;
    }
    std::string message = "block " + std::to_string(index_.x) + ": barrier mismatch:";
    for (const auto& [where, count] : groups)
      message += " " + std::to_string(count) + " threads " + where + ";";
    throw std::runtime_error(message);
  }

 private:
  static std::string where_is(const Fiber& fiber) {
    switch (fiber.state) {
      case State::kReturned:
        return "returned";
      case State::kAtBarrier:
        return "wait at the barrier " + fiber.site.text();
      case State::kAtGridBarrier:
        return "wait at the grid barrier " + fiber.site.text();
      default:
        return "wait at the warp operation " + fiber.site.text();
    }
  }

  void make_ready(unsigned t) {
    fibers_[t]->state = State::kRunnable;
    ready_.emplace_back(fibers_[t]->priority, t);
    std::push_heap(ready_.begin(), ready_.end());
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

  dim3 index_;
  unsigned returned_ = 0;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<std::pair<uint64_t, unsigned>> ready_;  // heap by priority
  std::unique_ptr<unsigned char[]> shared_;
};

class Scheduler {
 public:
  static Scheduler& instance() {
    static Scheduler scheduler;
    return scheduler;
  }

  // cooperative: all blocks are resident at once and may wait for one another; else one after another.
  void launch(dim3 grid, unsigned threads, size_t shared_bytes, uint64_t seed, bool cooperative,
              const std::function<void()>& kernel) {
    if (threads == 0 || threads > 1024 || threads % kWarp != 0)
      throw std::runtime_error("block size must be a multiple of 32 in [32, 1024], got " +
                               std::to_string(threads));
    random_.seed(seed);
    kernel_ = &kernel;
    error_.clear();
    gridDim = grid;
    blockDim = {threads, 1, 1};
    std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
    for (uint64_t b = 0; b < order.size(); ++b) order[b] = b;
    std::shuffle(order.begin(), order.end(), random_);
    const size_t resident = cooperative ? order.size() : 1;
    while (blocks_.size() < resident) blocks_.push_back(std::make_unique<Block>());
    for (size_t first = 0; first < order.size(); first += resident) {
      for (size_t i = 0; i < resident; ++i) {
        const uint64_t b = order[first + i];
        blocks_[i]->begin(
            {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)}, threads,
            shared_bytes, &Scheduler::enter);
      }
      run_resident(resident);
    }
  }

  unsigned char* shared() { return block_->shared(); }

  void barrier(Site site) { wait(State::kAtBarrier, site); }
  void grid_barrier(Site site) { wait(State::kAtGridBarrier, site); }

  // Waits until every lane of `mask` has come to this operation; returns what each of them gave.
  const uint64_t* exchange(unsigned mask, uint64_t value, Site site) {
    Fiber& self = *fiber_;
    self.mask = mask;
    self.value = value;
    wait(State::kAtWarpOp, site);
    return self.peers;
  }

  // Copies happen as late as they may: in the wait for them, or never.
  void copy_async(const Copy& copy) { fiber_->copies.back().push_back(copy); }
  void commit_copies() { fiber_->copies.emplace_back(); }
  void wait_copies(size_t pending) {
    auto& groups = fiber_->copies;
    while (groups.size() - 1 > pending) {
      for (const Copy& copy : groups.front()) {
        if (copy.there)
          std::memcpy(copy.to, copy.from, copy.bytes);
        else
          std::memset(copy.to, 0, copy.bytes);
      }
      groups.erase(groups.begin());
    }
  }

  void fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

 private:
  // Each block runs until its threads have returned or wait for the grid; then the grid goes on, in a new
  // order.
  void run_resident(size_t count) {
    std::vector<Block*> blocks;
    for (size_t i = 0; i < count; ++i) blocks.push_back(blocks_[i].get());
    while (true) {
      for (Block* block : blocks) run_block(*block);
      if (blocks[0]->returned()) break;
      for (Block* block : blocks) {
        if (block->returned() || !(block->site() == blocks[0]->site()))
          throw std::runtime_error("grid barrier mismatch: block " + std::to_string(blocks[0]->index().x) +
                                   " waits at " + blocks[0]->site().text() + ", block " +
                                   std::to_string(block->index().x) +
                                   (block->returned() ? " returned" : " at " + block->site().text()));
      }
      std::shuffle(blocks.begin(), blocks.end(), random_);
    }
    for (Block* block : blocks)
      if (!block->returned())
        throw std::runtime_error("grid barrier mismatch: block " + std::to_string(blocks[0]->index().x) +
                                 " returned, block " + std::to_string(block->index().x) + " waits at " +
                                 block->site().text());
  }

  void run_block(Block& block) {
    block_ = &block;
    blockIdx = block.index();
    block.begin_phase(random_);
    while (!block.returned()) {
      if (!block.has_ready()) {
        if (block.all_wait(State::kAtGridBarrier)) return;
        if (!block.all_wait(State::kAtBarrier)) block.throw_stuck();
        block.begin_phase(random_);
      }
      const unsigned thread = block.pop_ready();
      threadIdx = {thread, 0, 0};
      fiber_ = &block.fiber(thread);
      scheduler_context_.switch_to(fiber_->context);
      if (!error_.empty()) throw std::runtime_error("block " + std::to_string(blockIdx.x) + ": " + error_);
      block.stopped(thread);
    }
  }

  static void enter() {
    Scheduler& scheduler = instance();
    (*scheduler.kernel_)();
    scheduler.wait(State::kReturned, Site{"", 0});
  }

  void wait(State state, Site site) {
    Fiber& self = *fiber_;
    self.state = state;
    self.site = site;
    self.context.switch_to(scheduler_context_);
  }

  std::mt19937_64 random_;
  const std::function<void()>* kernel_ = nullptr;
  std::vector<std::unique_ptr<Block>> blocks_;
  Block* block_ = nullptr;
  Fiber* fiber_ = nullptr;
  Context scheduler_context_;
  std::string error_;
};

inline void copy_async(void* to, const void* from, size_t bytes, bool there) {
  Scheduler::instance().copy_async({to, from, bytes, there});
}
inline void commit_copies() {
  Scheduler::instance().commit_copies();
}
inline void wait_copies(int pending) {
  Scheduler::instance().wait_copies(static_cast<size_t>(pending));
}

// Runs `kernel` (a call of a __global__ function with its arguments) for every thread of every block.
inline void launch(dim3 grid, unsigned threads, size_t shared_bytes, uint64_t seed,
                   const std::function<void()>& kernel) {
  Scheduler::instance().launch(grid, threads, shared_bytes, seed, false, kernel);
}

// The same with all blocks at once, so that they may wait for one another (grid_barrier).
inline void launch_cooperative(dim3 grid, unsigned threads, size_t shared_bytes, uint64_t seed,
                               const std::function<void()>& kernel) {
  Scheduler::instance().launch(grid, threads, shared_bytes, seed, true, kernel);
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
