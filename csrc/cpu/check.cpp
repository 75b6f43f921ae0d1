#include "check.h"

#include <cmath>
#include <sstream>

#include "latent_ext/philox.h"

namespace latent_ext {

namespace {

const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Bool:
      return "bool";
    default:
      return "another dtype";
  }
}

std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  text << "]";
  return text.str();
}

std::string axes_text(std::initializer_list<Axis> axes) {
  std::ostringstream names, sizes;
  bool first = true;
  for (const Axis& axis : axes) {
    names << (first ? "" : ", ") << axis.name;
    sizes << (first ? "" : ", ");
    axis.size == kAnySize ? sizes << "any" : sizes << axis.size;
    first = false;
  }
  return "[" + names.str() + "] = [" + sizes.str() + "]";
}

void check_layout(const char* name, const Tensor& tensor, std::initializer_list<Axis> axes) {
  STD_TORCH_CHECK(
      tensor.is_cpu(), name,
      " must be on the CPU like the other arguments of this call, got a tensor on another device");
  bool fits = tensor.dim() == static_cast<int64_t>(axes.size());
  if (fits) {
    int64_t i = 0;
    for (const Axis& axis : axes) {
      fits = fits && (axis.size == kAnySize || tensor.size(i) == axis.size);
      ++i;
    }
  }
  STD_TORCH_CHECK(fits, name, " must have shape ", axes_text(axes), ", got ", shape_text(tensor));
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous, got other strides for shape ",
                  shape_text(tensor));
}

}  // namespace

void check_tensor(const char* name, const Tensor& tensor, ScalarType dtype,
                  std::initializer_list<Axis> axes) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be ", dtype_name(dtype), ", got ",
                  dtype_name(tensor.scalar_type()));
  check_layout(name, tensor, axes);
}

bool check_storage(const char* name, const Tensor& tensor, std::initializer_list<Axis> axes) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, name,
                  " must be float32 or bfloat16, got ", dtype_name(dtype));
  check_layout(name, tensor, axes);
  return dtype == ScalarType::BFloat16;
}

RowDraws check_draws(const Tensor& keys, const Tensor& positions, const Tensor& seed, int64_t rows) {
  check_tensor("keys", keys, ScalarType::Long, {{"rows", rows}});
  check_tensor("positions", positions, ScalarType::Long, {{"rows", rows}});
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long, "seed must be int64, got ",
                  dtype_name(seed.scalar_type()));
  STD_TORCH_CHECK(
      seed.is_cpu(),
      "seed must be on the CPU like the other arguments of this call, got a tensor on another device");
  STD_TORCH_CHECK(seed.numel() == 1, "seed must have one element, got shape ", shape_text(seed));
  const int64_t* position = static_cast<const int64_t*>(positions.const_data_ptr());
  for (int64_t row = 0; row < rows; ++row) {
    STD_TORCH_CHECK(position[row] >= 0 && position[row] <= kFixedPosition, "positions must be in [0, ",
                    kFixedPosition, "), or ", kFixedPosition, " (fixed), got ", position[row], " in row ",
                    row);
  }
  return {static_cast<const int64_t*>(keys.const_data_ptr()), position,
          *static_cast<const int64_t*>(seed.const_data_ptr())};
}

NormKind check_norm(const std::string& norm, double eps, const std::optional<Tensor>& weight,
                    const std::optional<Tensor>& bias, ScalarType dtype, int64_t hidden,
                    const std::string& prefix) {
  const bool layer = norm == "layer", rms = norm == "rms";
  STD_TORCH_CHECK(layer || rms || norm == "none", "norm must be one of 'layer', 'rms', 'none', got '", norm,
                  "'");
  STD_TORCH_CHECK(std::isfinite(eps) && eps >= 0, "eps must be finite and not negative, got ", eps);
  STD_TORCH_CHECK(!weight || layer || rms, prefix, "weight must be None when norm is '", norm, "'");
  STD_TORCH_CHECK(!bias || layer, prefix, "bias must be None when norm is '", norm, "'");
  if (weight) check_tensor((prefix + "weight").c_str(), *weight, dtype, {{"hidden", hidden}});
  if (bias) check_tensor((prefix + "bias").c_str(), *bias, dtype, {{"hidden", hidden}});
  return layer ? NormKind::kLayer : rms ? NormKind::kRms : NormKind::kNone;
}

void check_indices(const char* name, const int64_t* values, int64_t count, int64_t low, int64_t high) {
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(values[i] >= low && values[i] < high, name, " must be in [", low, ", ", high, "), got ",
                    values[i], " at index ", i);
  }
}

Tensor new_tensor(std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), dtype,
                              torch::headeronly::Layout::Strided,
                              torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

}  // namespace latent_ext
