// What every CUDA launcher shares: argument checks in the words of the CPU implementation, the current
// stream, the launch. Launchers never wait for the device and never read a device value, so every op can be
// captured into a CUDA graph.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <string>

#include "row_norm.cuh"

namespace latent_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_text(std::initializer_list<int64_t> sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

inline std::string shape_text(const Tensor& tensor) {
  std::string text;
  for (int64_t d = 0; d < tensor.dim(); ++d) text += (d == 0 ? "" : ", ") + std::to_string(tensor.size(d));
  return "[" + text + "]";
}

// Checks the arguments of one op against the dtype and device of its first tensor.
class ArgumentCheck {
 public:
  ArgumentCheck(const char* op, const char* name, const Tensor& first)
      : op_(op), dtype_(first.scalar_type()), device_(first.get_device_index()) {
    STD_TORCH_CHECK(dtype_ == ScalarType::Float || dtype_ == ScalarType::BFloat16, op_, ": ", name,
                    " must be float32 or bfloat16, got ", torch::headeronly::toString(dtype_));
  }

  ScalarType dtype() const { return dtype_; }

  void tensor(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape,
              ScalarType dtype) const {
    STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == device_, op_, ": ", name,
                    " must be on cuda:", device_, " like the first argument");
    STD_TORCH_CHECK(tensor.scalar_type() == dtype, op_, ": ", name, " must be ",
                    torch::headeronly::toString(dtype), ", got ",
                    torch::headeronly::toString(tensor.scalar_type()));
    bool same = tensor.dim() == static_cast<int64_t>(shape.size());
    for (int64_t d = 0; same && d < tensor.dim(); ++d) same = tensor.size(d) == shape.begin()[d];
    STD_TORCH_CHECK(same, op_, ": ", name, " must have shape ", shape_text(shape), ", got ",
                    shape_text(tensor));
    STD_TORCH_CHECK(tensor.is_contiguous(), op_, ": ", name, " must be contiguous");
  }

  void tensor(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape) const {
    this->tensor(name, tensor, shape, dtype_);
  }

  void tensor(const char* name, const std::optional<Tensor>& tensor,
              std::initializer_list<int64_t> shape) const {
    if (tensor.has_value()) this->tensor(name, *tensor, shape, dtype_);
  }

  void dimensions(const char* name, const Tensor& tensor, int64_t dim) const {
    STD_TORCH_CHECK(tensor.dim() == dim, op_, ": ", name, " must have ", dim, " dimensions, got ",
                    shape_text(tensor));
  }

  // The seed may have any shape with one element.
  void seed(const Tensor& seed) const {
    STD_TORCH_CHECK(seed.is_cuda() && seed.get_device_index() == device_ &&
                        seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                    op_, ": seed must be one int64 element on cuda:", device_, ", got ", shape_text(seed),
                    " ", torch::headeronly::toString(seed.scalar_type()));
  }

  int size(const char* name, int64_t value, int64_t largest = std::numeric_limits<int>::max() / 64) const {
    STD_TORCH_CHECK(value >= 1 && value <= largest, op_, ": ", name, " must be in [1, ", largest,
                    "] on CUDA, got ", value);
    return static_cast<int>(value);
  }

  // CUDA's limits of a grid: 2^31 - 1 blocks along x, 65535 along y and z.
  unsigned blocks(const char* name, int64_t value, int64_t largest = std::numeric_limits<int>::max()) const {
    return static_cast<unsigned>(size(name, value, largest));
  }

  NormKind norm(const std::string& norm) const {
    if (norm == "layer") return NormKind::kLayer;
    if (norm == "rms") return NormKind::kRms;
    STD_TORCH_CHECK(norm == "none", op_, ": norm must be \"layer\", \"rms\" or \"none\", got \"", norm, "\"");
    return NormKind::kNone;
  }

 private:
  const char* op_;
  ScalarType dtype_;
  int32_t device_;
};

template <typename T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

// Both types of one op: body(float{}) or body(BFloat16{}).
template <typename Body>
void for_storage_type(ScalarType dtype, const Body& body) {
  if (dtype == ScalarType::Float) {
    body(float{});
  } else {
    body(BFloat16{});
  }
}

// Launches on PyTorch's current stream of the tensor's device, which is the capturing stream during graph
// capture.
template <typename Arguments>
void launch_kernel(void (*kernel)(Arguments), dim3 grid, int threads, size_t shared_bytes, int32_t device,
                   const Arguments& arguments) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  if (shared_bytes > kPlainSharedBytes) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shared_bytes)));
  }
  kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace latent_ext
