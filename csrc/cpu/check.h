// Argument checks of the CPU launchers: each names the argument, what came and what is allowed.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "kernels.h"

namespace latent_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// One axis of an expected shape; a size of kAnySize is not checked.
constexpr int64_t kAnySize = -1;
struct Axis {
  const char* name;
  int64_t size;
};

// On the CPU, contiguous, of this dtype and shape.
void check_tensor(const char* name, const Tensor& tensor, ScalarType dtype, std::initializer_list<Axis> axes);
// The same for the tensor whose dtype decides the storage of the call: float32 or bfloat16. True for
// bfloat16.
bool check_storage(const char* name, const Tensor& tensor, std::initializer_list<Axis> axes);

// Keys, positions and seed of `rows` rows.
RowDraws check_draws(const Tensor& keys, const Tensor& positions, const Tensor& seed, int64_t rows);
// Norm name, eps, and weight and bias that fit it. prefix stands before their names in a message.
NormKind check_norm(const std::string& norm, double eps, const std::optional<Tensor>& weight,
                    const std::optional<Tensor>& bias, ScalarType dtype, int64_t hidden,
                    const std::string& prefix = "");
// Every value in [low, high).
void check_indices(const char* name, const int64_t* values, int64_t count, int64_t low, int64_t high);

inline const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

// An uninitialised CPU tensor; the caller fills all of it.
Tensor new_tensor(std::initializer_list<int64_t> sizes, ScalarType dtype);

}  // namespace latent_ext
