// The threads of one call, and how they keep in step.
//
// run_team(threads, barrier, body) runs body(rank) once for every rank; rank 0 is the calling thread, the
// others are workers that stay parked in the kernel between calls. Every call has workers of its own for as
// long as it lasts: concurrent callers do not wait for each other, and a body may run a team itself. Between
// phases the ranks meet at a barrier.
//
// A rank that fails abandons the barrier, so no other rank waits for it: those that wait there or arrive
// later leave with BarrierAbandoned. What ranks share must therefore outlive the call, not just one rank's
// part of it.
//
// What a worker takes over from the caller, at every call: the floating point environment (rounding, flushing
// of denormals, masks), so that results do not depend on the thread. When it is first started and never
// again: CPU affinity, scheduling class and niceness. Never: thread-local state, such as torch's gradient
// mode; floating point flags that a body raises on a worker do not reach the caller. Signals are never
// delivered to workers, except those that a fault of their own raises.
//
// After fork() the child starts workers anew and the parent goes on undisturbed; a body that forks must end
// its child with exec or _exit.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#if !defined(__linux__)
#include <condition_variable>
#include <mutex>
#endif

namespace latent_ext {

// A number that threads can sleep on until it changes.
class WaitWord {
 public:
  uint32_t load() const { return value_.load(std::memory_order_acquire); }
  // The number before the change. Who changes a word that others sleep on calls wake_all() afterwards.
  uint32_t add(uint32_t amount) { return value_.fetch_add(amount); }
  uint32_t set_bits(uint32_t bits) { return value_.fetch_or(bits); }
  // Returns once the word is not `expected`, at once if it is not, and now and then for no reason.
  void sleep_while(uint32_t expected);
  void wake_all();

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
#if !defined(__linux__)
  std::mutex mutex_;
  std::condition_variable changed_;
#endif
};

// What a barrier throws when a member of its group has failed.
class BarrierAbandoned : public std::exception {
 public:
  const char* what() const noexcept override { return "another member of the thread team failed"; }
};

// Where the members of a group meet between phases: what any of them wrote before is seen by all of them
// after.
class Barrier {
 public:
  explicit Barrier(int members);
  Barrier(const Barrier&) = delete;
  Barrier& operator=(const Barrier&) = delete;

  // Returns when all members have arrived; waits some microseconds awake, then asleep. Throws
  // BarrierAbandoned.
  void arrive_and_wait() {
    if (members_ > 1) meet();
  }
  // Lets nobody wait here from now on. Any thread may call it, any number of times.
  void abandon() noexcept;

 private:
  void meet();

  const uint32_t members_;
  const bool spins_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) WaitWord phase_;  // bit 0: abandoned; above: phases that have ended, modulo 2^31
};

// One thread's place in a group.
struct Member {
  int rank;
  int size;
  Barrier* barrier;  // null for a group of one

  void wait() const {
    if (size > 1) barrier->arrive_and_wait();
  }
};

// The part of a call that knows no types: body(context, rank); barrier may be null.
void run_team(int threads, Barrier* barrier, void (*body)(const void*, int), const void* context);

// Runs body(rank) for ranks 0 .. threads - 1 and returns when all have returned. When bodies throw, the
// barrier is abandoned and the exception that came first is thrown again here, after all ranks have returned.
// Throws std::invalid_argument for threads < 1, and std::runtime_error when the system gives no more threads;
// then no body has run.
template <class Body>
void run_team(int threads, Barrier& barrier, const Body& body) {
  run_team(
      threads, &barrier, [](const void* context, int rank) { (*static_cast<const Body*>(context))(rank); },
      &body);
}

// The same for ranks that do not meet.
template <class Body>
void run_team(int threads, const Body& body) {
  run_team(
      threads, nullptr, [](const void* context, int rank) { (*static_cast<const Body*>(context))(rank); },
      &body);
}

}  // namespace latent_ext
