// Idle teams stand on a free list that is never destroyed: a process may exit, or another thread may run its
// static destructors, while workers are parked or busy. For the same reason workers are detached, and the
// library is linked so that it stays mapped (CMakeLists.txt).
#include "team.h"

#include <pthread.h>

#include <cfenv>
#include <chrono>
#include <csignal>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace latent_ext {

namespace {

// How long a thread waits awake. Sleeping and waking costs about as much; phases that end further apart than
// this are better slept through, for the core may be wanted by the very thread that is waited for.
constexpr std::chrono::microseconds kSpin{20};
constexpr int kPausesPerClockReading = 32;

inline void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int allowed_cores() {
#if defined(__linux__)
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) return CPU_COUNT(&cores);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

// Waiting awake is of use only where the thread that is waited for has a core of its own.
bool worth_spinning(int threads) {
  return threads > 1 && allowed_cores() >= threads;
}

template <class Done>
void wait_until(WaitWord& word, bool spins, const Done& done) {
  if (spins) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < kPausesPerClockReading; ++i) {
        if (done(word.load())) return;
        pause_core();
      }
    } while (std::chrono::steady_clock::now() < end);
  }
  for (uint32_t seen = word.load(); !done(seen); seen = word.load()) word.sleep_while(seen);
}

}  // namespace

#if defined(__linux__)

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex is a plain 32-bit word");

// The waker changes the word, then looks for sleepers; the sleeper announces itself, then the kernel looks at
// the word. All four in one total order, so one of the two sees the other.
void WaitWord::sleep_while(uint32_t expected) {
  sleepers_.fetch_add(1);
  if (value_.load() == expected) {
    syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
  }
  sleepers_.fetch_sub(1);
}

void WaitWord::wake_all() {
  if (sleepers_.load() != 0) syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

#else

void WaitWord::sleep_while(uint32_t expected) {
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);
  changed_.wait(lock, [&] { return value_.load() != expected; });
  sleepers_.fetch_sub(1);
}

void WaitWord::wake_all() {
  // Under the lock to the end: the sleeper may destroy the word as soon as it is free.
  std::lock_guard<std::mutex> lock(mutex_);
  if (sleepers_.load() != 0) changed_.notify_all();
}

#endif

namespace {

constexpr uint32_t kAbandoned = 1;
constexpr uint32_t kPhase = 2;

}  // namespace

Barrier::Barrier(int members) : members_(static_cast<uint32_t>(members)), spins_(worth_spinning(members)) {
  if (members < 1)
    throw std::invalid_argument("a barrier needs at least 1 member, got " + std::to_string(members));
}

void Barrier::meet() {
  // This phase cannot end before this thread arrives, so the word can only change by being abandoned.
  uint32_t phase = phase_.load();
  if (phase & kAbandoned) throw BarrierAbandoned();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
    arrived_.store(0, std::memory_order_relaxed);  // nobody arrives again before the phase has ended
    phase = phase_.add(kPhase);
    phase_.wake_all();
  } else {
    wait_until(phase_, spins_, [&](uint32_t now) { return now != phase; });
    phase = phase_.load();
  }
  if (phase & kAbandoned) throw BarrierAbandoned();
}

void Barrier::abandon() noexcept {
  phase_.set_bits(kAbandoned);
  phase_.wake_all();
}

namespace {

struct Call {
  void (*body)(const void*, int);
  const void* context;
  Barrier* barrier;
  std::fenv_t environment;
};

// Blocks the signals of this thread, and so of a thread that it starts, for as long as this lives. A fault
// stays deliverable: blocked, it would kill the process without a word from its handler.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT})
      sigdelset(&blocked, fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

class Team {
 public:
  Team* next = nullptr;  // on the free list

  // Has workers for ranks 1 .. threads - 1 from here on, or throws.
  void grow(int threads) {
    if (threads - 1 <= static_cast<int>(workers_.size())) return;
    workers_.reserve(threads - 1);
    const BlockedSignals blocked;
    while (static_cast<int>(workers_.size()) < threads - 1) {
      const int rank = static_cast<int>(workers_.size()) + 1;
      Worker* worker = new Worker{rank, {}};
      try {
        std::thread(&Team::serve, this, worker).detach();
      } catch (const std::system_error& error) {
        delete worker;
        throw std::runtime_error("threads is " + std::to_string(threads) + " and the system gave " +
                                 std::to_string(rank) + " (" + error.what() +
                                 "): use fewer, or raise the limit of threads");
      }
      workers_.push_back(worker);
    }
  }

  void run(int threads, const Call& call) {
    call_ = call;
    failed_.store(false, std::memory_order_relaxed);
    running_.add(static_cast<uint32_t>(threads - 1));
    for (int rank = 1; rank < threads; ++rank) {
      WaitWord& calls = workers_[rank - 1]->calls;
      calls.add(1);
      calls.wake_all();
    }
    run_rank(0);
    wait_until(running_, worth_spinning(threads), [](uint32_t running) { return running == 0; });
    if (!failed_.load(std::memory_order_relaxed)) return;
    std::exception_ptr failure;
    failure.swap(failure_);
    std::rethrow_exception(failure);
  }

 private:
  struct Worker {
    int rank;
    WaitWord calls;  // counts what it was given to do
  };

  void serve(Worker* worker) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "latent_ext");
#endif
    for (uint32_t served = 0;; ++served) {
      wait_until(worker->calls, false, [&](uint32_t calls) { return calls != served; });
      std::fesetenv(&call_.environment);
      run_rank(worker->rank);
      if (running_.add(static_cast<uint32_t>(-1)) == 1) running_.wake_all();
    }
  }

  void run_rank(int rank) {
    try {
      call_.body(call_.context, rank);
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
      if (call_.barrier) call_.barrier->abandon();
    }
  }

  std::vector<Worker*> workers_;  // of rank 1, 2, ...
  Call call_;
  WaitWord running_;  // workers that have not returned
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;  // of the rank that set failed_
};

// Initialised before any code runs and never destroyed.
std::mutex idle_teams_mutex;
Team* idle_teams = nullptr;

// A fork waits until no thread is at the list, so that the child finds it whole. The teams of the parent are
// left alone there: they have no threads, and one of them may have been at work.
const int registered = pthread_atfork([] { idle_teams_mutex.lock(); }, [] { idle_teams_mutex.unlock(); },
                                      [] {
                                        idle_teams = nullptr;
                                        idle_teams_mutex.unlock();
                                      });

// The team of one call; the one that was used last comes first, for its threads and caches are warm.
class BorrowedTeam {
 public:
  BorrowedTeam() {
    {
      const std::lock_guard<std::mutex> lock(idle_teams_mutex);
      team_ = idle_teams;
      if (team_) idle_teams = team_->next;
    }
    if (!team_) team_ = new Team;
  }
  ~BorrowedTeam() {
    const std::lock_guard<std::mutex> lock(idle_teams_mutex);
    team_->next = idle_teams;
    idle_teams = team_;
  }
  BorrowedTeam(const BorrowedTeam&) = delete;
  BorrowedTeam& operator=(const BorrowedTeam&) = delete;
  Team* operator->() const { return team_; }

 private:
  Team* team_;
};

}  // namespace

void run_team(int threads, Barrier* barrier, void (*body)(const void*, int), const void* context) {
  if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
  if (threads == 1) return body(context, 0);
  if (registered != 0) throw std::system_error(registered, std::generic_category(), "pthread_atfork");
  BorrowedTeam team;
  team->grow(threads);
  Call call{body, context, barrier, {}};
  std::fegetenv(&call.environment);
  team->run(threads, call);
}

}  // namespace latent_ext
