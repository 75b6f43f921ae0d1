#include "launch.h"
#include "next_thought.cuh"

namespace latent_ext {
namespace {

void next_thought(const Tensor& hidden, const std::optional<Tensor>& weight,
                  const std::optional<Tensor>& bias, const std::optional<Tensor>& log_std, const Tensor& keys,
                  const Tensor& positions, const Tensor& seed, double eps, const std::string& norm,
                  double scale, double sigma, bool relative, int64_t step, Tensor next_input,
                  const std::optional<Tensor>& thoughts) {
  const ArgumentCheck check("next_thought", "hidden", hidden);
  check.dimensions("hidden", hidden, 2);
  const int64_t rows = hidden.size(0), hidden_size = hidden.size(1);
  check.tensor("hidden", hidden, {rows, hidden_size});
  check.tensor("weight", weight, {hidden_size});
  check.tensor("bias", bias, {hidden_size});
  check.tensor("log_std", log_std, {rows, hidden_size});
  check.tensor("keys", keys, {rows}, ScalarType::Long);
  check.tensor("positions", positions, {rows}, ScalarType::Long);
  check.seed(seed);
  check.tensor("next_input", next_input, {rows, hidden_size});
  int64_t steps = 0;
  if (thoughts.has_value()) {
    check.dimensions("thoughts", *thoughts, 3);
    steps = thoughts->size(1);
    check.tensor("thoughts", thoughts, {rows, steps, hidden_size});
    STD_TORCH_CHECK(step >= 0 && step < steps, "next_thought: step must be in [0, ", steps, "), got ", step);
  }
  STD_TORCH_CHECK(sigma >= 0.0, "next_thought: sigma must not be negative, got ", sigma);
  STD_TORCH_CHECK(!(relative && log_std.has_value()),
                  "next_thought: relative must be false when log_std is given");
  const NormKind norm_kind = check.norm(norm);

  if (rows == 0 || hidden_size == 0) return;
  for_storage_type(check.dtype(), [&](auto storage) {
    using T = decltype(storage);
    NextThoughtArguments<T> a{};
    a.hidden = static_cast<const T*>(hidden.const_data_ptr());
    a.weight = data_or_null<T>(weight);
    a.bias = data_or_null<T>(bias);
    a.log_std = data_or_null<T>(log_std);
    a.keys = keys.const_data_ptr<int64_t>();
    a.positions = positions.const_data_ptr<int64_t>();
    a.seed = seed.const_data_ptr<int64_t>();
    a.next_input = static_cast<T*>(next_input.mutable_data_ptr());
    a.thoughts = thoughts.has_value() ? static_cast<T*>(thoughts->mutable_data_ptr()) : nullptr;
    a.hidden_size = check.size("hidden size", hidden_size);
    a.steps = steps;
    a.step = step;
    a.eps = static_cast<float>(eps);
    a.scale = static_cast<float>(scale);
    a.sigma = static_cast<float>(sigma);
    a.relative = relative;
    a.norm = norm_kind;
    a.wide =
        can_read_packs<T>(a.hidden_size, {a.hidden, a.weight, a.bias, a.log_std, a.next_input, a.thoughts});
    launch_kernel(next_thought_kernel<T>, {check.blocks("rows", rows), 1, 1},
                  row_block_threads<T>(a.hidden_size), kNextThoughtSharedBytes, hidden.get_device_index(), a);
  });
}

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CUDA, m) {
  m.impl("next_thought", TORCH_BOX(&next_thought));
}

}  // namespace
}  // namespace latent_ext
