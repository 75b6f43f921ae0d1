// _native: what Python asks the native library about itself. Ops never go through it; it only calls the C
// functions of _C.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "control.h"
#include "latent_ext/philox.h"

namespace py = pybind11;

namespace {

std::vector<std::string> split(const char* text, char separator) {
  std::vector<std::string> names;
  std::istringstream list(text);
  for (std::string name; std::getline(list, name, separator);) names.push_back(name);
  return names;
}

std::vector<std::string> supported_capabilities() {
  return split(latent_ext_supported_capabilities(), ',');
}

void set_cpu_capability(const std::string& name) {
  if (const char* error = latent_ext_set_cpu_capability(name.c_str())) throw py::value_error(error);
}

py::dict build_facts() {
  py::dict facts;
  facts["compiler"] = LATENT_EXT_COMPILER;
  facts["build_type"] = LATENT_EXT_BUILD_TYPE;
  facts["sanitizers"] = LATENT_EXT_SANITIZERS;
  facts["cuda_architectures"] = split(LATENT_EXT_CUDA_ARCHITECTURES, ' ');
  facts["torch_abi_target"] = "2.11";
  return facts;
}

void check_draw(int64_t position, int64_t site, int64_t count) {
  if (position < 0 || position > latent_ext::kFixedPosition) {
    throw py::value_error("position must be in [0, 1048575], got " + std::to_string(position));
  }
  if (site < 0 || site >= latent_ext::kSiteLimit) {
    throw py::value_error("site must be in [0, 4096), got " + std::to_string(site));
  }
  if (count < 0) throw py::value_error("count must not be negative, got " + std::to_string(count));
}

py::array_t<uint32_t> random_words(int64_t seed, int64_t key, int64_t position, int64_t site, int64_t first,
                                   int64_t count) {
  check_draw(position, site, count);
  if (first < 0 || first % 4 != 0 || static_cast<uint64_t>(first + count) > latent_ext::kElementLimit) {
    throw py::value_error("first must be a multiple of 4 with first + count <= 2**34, got " +
                          std::to_string(first));
  }
  py::array_t<uint32_t> out(count);
  latent_ext_random_words(seed, key, position, static_cast<uint32_t>(site), first, count, out.mutable_data());
  return out;
}

py::array_t<float> normals(int64_t seed, int64_t key, int64_t position, int64_t site, int64_t count) {
  check_draw(position, site, count);
  py::array_t<float> out(count);
  latent_ext_normals(seed, key, position, static_cast<uint32_t>(site), count, out.mutable_data());
  return out;
}

py::array_t<float> gumbels(int64_t seed, int64_t key, int64_t position, int64_t site, int64_t count) {
  check_draw(position, site, count);
  py::array_t<float> out(count);
  latent_ext_gumbels(seed, key, position, static_cast<uint32_t>(site), count, out.mutable_data());
  return out;
}

py::array_t<bool> keep_mask(int64_t seed, int64_t key, int64_t position, int64_t site, int64_t count,
                            double p) {
  check_draw(position, site, count);
  if (!(p >= 0 && p < 1)) throw py::value_error("p must be in [0, 1), got " + std::to_string(p));
  py::array_t<bool> out(count);
  latent_ext_keep_mask(seed, key, position, static_cast<uint32_t>(site), count, p, out.mutable_data());
  return out;
}

// The GIL is not held meanwhile: teams of several Python threads run side by side.
std::optional<std::string> team_selftest(int threads, int rounds) {
  if (threads < 1) throw py::value_error("threads must be at least 1, got " + std::to_string(threads));
  if (rounds < 1) throw py::value_error("rounds must be at least 1, got " + std::to_string(rounds));
  const py::gil_scoped_release release;
  const char* error = latent_ext_team_selftest(threads, rounds);
  if (!error) return std::nullopt;
  return error;
}

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::array_t<float> log_of(const FloatArray& x) {
  py::array_t<float> out(x.size());
  latent_ext_log(x.data(), x.size(), out.mutable_data());
  return out;
}

py::array_t<float> exp_of(const FloatArray& x) {
  py::array_t<float> out(x.size());
  latent_ext_exp(x.data(), x.size(), out.mutable_data());
  return out;
}

}  // namespace

double multiply_add_rate(double seconds) {
  if (!(seconds > 0 && seconds <= 60)) {
    throw py::value_error("seconds must be in (0, 60], got " + std::to_string(seconds));
  }
  py::gil_scoped_release unlocked;
  return latent_ext_multiply_add_rate(seconds);
}

PYBIND11_MODULE(_native, m) {
  using py::literals::operator""_a;
  m.doc() = "Build facts, control of the CPU's ISA level, and the random generator for tests.";
  m.def("build_facts", &build_facts, "Compiler, build type, sanitizers and what was built.");
  m.def("cpu_capability", &latent_ext_cpu_capability, "The level in use: 'default', 'avx2' or 'avx512'.");
  m.def("supported_capabilities", &supported_capabilities,
        "The levels this machine can run, narrowest first.");
  m.def("set_cpu_capability", &set_cpu_capability, "name"_a,
        "Use another level from the next op on; ValueError if this machine cannot run it.");
  m.def("team_selftest", &team_selftest, "threads"_a, "rounds"_a,
        "None, or what the thread team was promised to do and did not.");
  m.def("random_words", &random_words, "seed"_a, "key"_a, "position"_a, "site"_a, "first"_a, "count"_a,
        "uint32 [count]: words of elements first, first + 1, ...; first is a multiple of 4.");
  m.def("normals", &normals, "seed"_a, "key"_a, "position"_a, "site"_a, "count"_a, "float32 [count].");
  m.def("gumbels", &gumbels, "seed"_a, "key"_a, "position"_a, "site"_a, "count"_a, "float32 [count].");
  m.def("keep_mask", &keep_mask, "seed"_a, "key"_a, "position"_a, "site"_a, "count"_a, "p"_a,
        "bool [count].");
  m.def("multiply_add_rate", &multiply_add_rate, "seconds"_a,
        "GFLOP/s of multiply-adds on registers alone, one thread, at the level in use, measured for that "
        "long.");
  m.def("log", &log_of, "x"_a, "float32 [n] to float32 [n]; x positive and normal.");
  m.def("exp", &exp_of, "x"_a, "float32 [n] to float32 [n].");
}
