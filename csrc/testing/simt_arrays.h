// numpy arrays as the pointers a kernel takes.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "latent_ext/bfloat16.h"
#include "latent_ext/norm.h"

namespace py = pybind11;

namespace latent_ext {

using Array = py::array;
using Maybe = std::optional<py::array>;
using Int64s = py::array_t<int64_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

template <typename T>
const T* in(const Array& array) {
  if (!(array.flags() & py::array::c_style)) throw py::value_error("arrays must be contiguous");
  if (array.itemsize() != sizeof(T)) throw py::value_error("arrays of one call must have one dtype");
  return static_cast<const T*>(array.data());
}

template <typename T>
const T* in(const Maybe& array) {
  return array ? in<T>(*array) : nullptr;
}

template <typename T>
T* out(Array& array) {
  return const_cast<T*>(in<T>(array));
}

// Filled with NaN (-1 in integers), so that an element no thread wrote shows.
inline Array poisoned(const py::dtype& dtype, std::vector<py::ssize_t> shape) {
  Array array(dtype, std::move(shape));
  std::memset(array.mutable_data(), 0xFF, array.nbytes());
  return array;
}

inline NormKind norm_kind(const std::string& norm) {
  return norm == "layer" ? NormKind::kLayer : norm == "rms" ? NormKind::kRms : NormKind::kNone;
}

template <typename Body>
void for_storage_type(const Array& array, const Body& body) {
  if (array.dtype().kind() == 'f') {
    body(float{});
  } else {
    body(BFloat16{});
  }
}

}  // namespace latent_ext
