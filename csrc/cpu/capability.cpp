// Which ISA level runs: the widest this CPU and operating system support, or what LATENT_EXT_CPU_CAPABILITY
// or set_cpu_capability asks for. Chosen once, then one pointer to a table of kernels.
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <stdexcept>
#include <string>
#include <vector>

#include "control.h"
#include "kernels.h"

namespace latent_ext {

namespace isa_default {
void fill_kernels(Kernels&);
}
#if defined(LATENT_EXT_X86_LEVELS)
namespace isa_avx2 {
void fill_kernels(Kernels&);
}
namespace isa_avx512 {
void fill_kernels(Kernels&);
}
namespace isa_avx512_dot {
void add_dot_kernels(Kernels&);
}
#endif

namespace {

struct Level {
  const char* name;
  Kernels kernels;
};

std::vector<Level> supported_levels() {
  std::vector<Level> levels;
  const auto add = [&](const char* name, void (*fill)(Kernels&)) {
    levels.push_back({name, {}});
    fill(levels.back().kernels);
  };
  add("default", isa_default::fill_kernels);
#if defined(LATENT_EXT_X86_LEVELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) add("avx2", isa_avx2::fill_kernels);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    add("avx512", isa_avx512::fill_kernels);
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      isa_avx512_dot::add_dot_kernels(levels.back().kernels);
    }
  }
#endif
  return levels;
}

struct Choice {
  std::vector<Level> levels = supported_levels();
  std::string supported;  // names separated by commas
  std::string error;      // of the environment variable; empty when it can be followed
  std::atomic<const Level*> active{nullptr};

  Choice() {
    for (const Level& level : levels) supported += (supported.empty() ? "" : ",") + std::string(level.name);
    active = &levels.back();
    const char* wanted = std::getenv("LATENT_EXT_CPU_CAPABILITY");
    if (wanted && *wanted) error = choose(wanted, "LATENT_EXT_CPU_CAPABILITY");
  }

  // Empty on success.
  std::string choose(const std::string& name, const std::string& argument) {
    for (const Level& level : levels) {
      if (name == level.name) {
        active = &level;
        return "";
      }
    }
    const bool known = name == "avx2" || name == "avx512";
    return argument + " must be one of " + supported + " on this machine, got '" + name + "'" +
           (known ? ", which it does not support" : "");
  }
};

Choice& choice() {
  static Choice instance;
  return instance;
}

}  // namespace

const Kernels& kernels() {
  if (!choice().error.empty()) throw std::runtime_error(choice().error);
  return choice().active.load()->kernels;
}

}  // namespace latent_ext

using latent_ext::choice;
using latent_ext::kernels;

const char* latent_ext_capability_error() {
  return choice().error.empty() ? nullptr : choice().error.c_str();
}

const char* latent_ext_cpu_capability() {
  return choice().active.load()->name;
}

const char* latent_ext_supported_capabilities() {
  return choice().supported.c_str();
}

const char* latent_ext_set_cpu_capability(const char* name) {
  thread_local std::string error;
  error = choice().choose(name, "name");
  return error.empty() ? nullptr : error.c_str();
}

void latent_ext_random_words(int64_t seed, int64_t key, int64_t position, uint32_t site, uint64_t first,
                             int64_t count, uint32_t* out) {
  kernels().random_words(seed, key, position, site, first, count, out);
}

void latent_ext_normals(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count,
                        float* out) {
  kernels().normals(seed, key, position, site, count, out);
}

void latent_ext_gumbels(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count,
                        float* out) {
  kernels().gumbels(seed, key, position, site, count, out);
}

void latent_ext_keep_mask(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, double p,
                          bool* out) {
  kernels().keep_mask(seed, key, position, site, count, p, out);
}

void latent_ext_log(const float* x, int64_t count, float* out) {
  kernels().log(x, count, out);
}

double latent_ext_multiply_add_rate(double seconds) {
  const auto now = [] {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
  };
  const double start = now();
  double count = 0.0, spent = 0.0;
  do {
    count += kernels().multiply_adds(100000);
    spent = now() - start;
  } while (spent < seconds);
  return 2e-9 * count / spent;
}

void latent_ext_exp(const float* x, int64_t count, float* out) {
  kernels().exp(x, count, out);
}
