// What the thread team promises (team.h), checked on this machine: a hook for tests.
#include <pthread.h>

#include <cfenv>
#include <chrono>
#include <csignal>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "control.h"
#include "team.h"

namespace latent_ext {

namespace {

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void require(bool holds, const char* promise) {
  if (!holds) throw Broken(promise);
}

// Every rank writes, meets the others and reads what they wrote. Now and then a rank is late, so that the
// others fall asleep.
void check_phases(int threads, int rounds) {
  Barrier barrier(threads);
  std::vector<int64_t> written(threads, -1);
  run_team(threads, barrier, [&](int rank) {
    const Member member{rank, threads, &barrier};
    for (int64_t round = 0; round < rounds; ++round) {
      if (round % 64 == rank) std::this_thread::sleep_for(std::chrono::microseconds(100));
      written[rank] = round * threads + rank;
      member.wait();
      int64_t sum = 0;
      for (const int64_t value : written) sum += value;
      member.wait();
      const int64_t expected = round * threads * threads + int64_t(threads) * (threads - 1) / 2;
      require(sum == expected, "after a wait a rank sees what all ranks wrote before it");
    }
  });
}

void check_every_rank_runs_once(int threads) {
  std::vector<int> runs(threads, 0);
  const std::thread::id caller = std::this_thread::get_id();
  bool caller_is_first = false;
  run_team(threads, [&](int rank) {
    ++runs[rank];
    if (rank == 0) caller_is_first = std::this_thread::get_id() == caller;
  });
  require(runs == std::vector<int>(threads, 1), "every rank runs once");
  require(caller_is_first, "rank 0 is the calling thread");
}

// The rank fails in the middle of its phases while all others go on to wait for it.
void check_failure(int threads, int failing) {
  Barrier barrier(threads);
  std::vector<int> returned(threads, 0);
  std::string message = "nothing was thrown";
  try {
    run_team(threads, barrier, [&](int rank) {
      struct Return {
        int& flag;
        ~Return() { flag = 1; }
      } const at_return{returned[rank]};
      const Member member{rank, threads, &barrier};
      for (int phase = 0;; ++phase) {
        if (phase == 3 && rank == failing) throw std::runtime_error("rank " + std::to_string(rank));
        if (phase == 4) throw Broken("nobody passes a barrier that a failed rank has not reached");
        member.wait();
      }
    });
  } catch (const Broken&) {
    throw;
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  require(message == "rank " + std::to_string(failing), "the first exception reaches the caller");
  require(std::accumulate(returned.begin(), returned.end(), 0) == threads,
          "all ranks return before the caller");
}

void check_failure_of_all(int threads) {
  Barrier barrier(threads);
  bool thrown = false;
  try {
    run_team(threads, barrier, [&](int rank) {
      barrier.arrive_and_wait();
      throw std::out_of_range(std::to_string(rank));
    });
  } catch (const std::out_of_range&) {
    thrown = true;
  }
  require(thrown, "one of many exceptions reaches the caller");
}

void check_nesting(int threads, int rounds) {
  std::vector<int> failures(threads, 0);
  run_team(threads, [&](int rank) {
    check_phases(2, rounds);
    try {
      run_team(2, [](int inner) {
        if (inner == 1) throw std::range_error("inner");
      });
    } catch (const std::range_error&) {
      failures[rank] = 1;
    }
  });
  require(std::accumulate(failures.begin(), failures.end(), 0) == threads,
          "an exception of a nested team reaches the rank that ran it");
}

// Each caller, on a thread that ends afterwards, has its own ranks and its own failures.
void check_concurrent_callers(int threads, int rounds) {
  constexpr int kCallers = 4;
  std::vector<std::string> errors(kCallers);
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&, c] {
      try {
        check_phases(threads, rounds);
        check_failure(threads, c % threads);
        check_every_rank_runs_once(threads);
      } catch (const std::exception& error) {
        errors[c] = error.what();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const std::string& error : errors) require(error.empty(), error.c_str());
}

void check_environment(int threads) {
  std::fenv_t before;
  std::fegetenv(&before);
  std::vector<int> rounding(threads), signals(threads);
  bool thrown = false;
  for (const int mode : {FE_UPWARD, FE_TONEAREST}) {
    std::fesetround(mode);
    run_team(threads, [&](int rank) {
      rounding[rank] = std::fegetround();
      sigset_t blocked;
      pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
      signals[rank] = rank == 0 || (sigismember(&blocked, SIGINT) && !sigismember(&blocked, SIGSEGV));
    });
    thrown = thrown || rounding != std::vector<int>(threads, mode);
  }
  std::fesetenv(&before);
  require(!thrown, "all ranks round as the caller does");
  require(signals == std::vector<int>(threads, 1), "workers block SIGINT and not SIGSEGV");
}

void check_arguments() {
  for (const std::function<void()>& wrong : {std::function<void()>([] { run_team(0, [](int) {}); }),
                                             std::function<void()>([] { Barrier barrier(0); })}) {
    bool refused = false;
    try {
      wrong();
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    require(refused, "fewer than one thread is refused");
  }
}

}  // namespace

}  // namespace latent_ext

const char* latent_ext_team_selftest(int threads, int rounds) {
  using namespace latent_ext;
  thread_local std::string error;
  try {
    check_arguments();
    check_every_rank_runs_once(threads);
    check_environment(threads);
    check_phases(threads, rounds);
    for (int failing = 0; failing < threads; ++failing) check_failure(threads, failing);
    check_failure_of_all(threads);
    check_nesting(threads, rounds / 8);
    check_concurrent_callers(threads, rounds / 4);
  } catch (const std::exception& broken) {
    error = broken.what();
    return error.c_str();
  }
  return nullptr;
}
