#include <cmath>

#include "check.h"

namespace latent_ext {

namespace {

constexpr int64_t kRowGrain = 4;

void next_thought(const Tensor& hidden, std::optional<Tensor> weight, std::optional<Tensor> bias,
                  std::optional<Tensor> log_std, const Tensor& keys, const Tensor& positions,
                  const Tensor& seed, double eps, std::string norm, double scale, double sigma, bool relative,
                  int64_t step, const Tensor& next_input, std::optional<Tensor> thoughts) {
  const bool bfloat16 = check_storage("hidden", hidden, {{"rows", kAnySize}, {"hidden", kAnySize}});
  const ScalarType dtype = hidden.scalar_type();
  const int64_t rows = hidden.size(0), size = hidden.size(1);
  STD_TORCH_CHECK(size > 0, "hidden must have at least 1 element per row, got 0");
  if (log_std) check_tensor("log_std", *log_std, dtype, {{"rows", rows}, {"hidden", size}});
  const RowDraws draws = check_draws(keys, positions, seed, rows);
  const NormKind kind = check_norm(norm, eps, weight, bias, dtype, size);
  STD_TORCH_CHECK(std::isfinite(scale), "scale must be finite, got ", scale);
  STD_TORCH_CHECK(std::isfinite(sigma) && sigma >= 0, "sigma must be finite and not negative, got ", sigma);
  STD_TORCH_CHECK(!(relative && log_std),
                  "relative must be False when log_std is given, which sets the scale of the noise");
  check_tensor("next_input", next_input, dtype, {{"rows", rows}, {"hidden", size}});
  char* thought = nullptr;
  int64_t stride = 0;
  if (thoughts) {
    check_tensor("thoughts", *thoughts, dtype, {{"rows", rows}, {"steps", kAnySize}, {"hidden", size}});
    const int64_t steps = thoughts->size(1);
    STD_TORCH_CHECK(step >= 0 && step < steps, "step must be in [0, ", steps,
                    "), the steps of thoughts, got ", step);
    thought = static_cast<char*>(thoughts->mutable_data_ptr());
    if (thought) thought += step * size * static_cast<int64_t>(thoughts->element_size());
    stride = steps * size;
  }

  const NextThoughtCall call = {bfloat16,
                                size,
                                hidden.const_data_ptr(),
                                data_or_null(weight),
                                data_or_null(bias),
                                data_or_null(log_std),
                                draws,
                                static_cast<float>(eps),
                                kind,
                                static_cast<float>(scale),
                                static_cast<float>(sigma),
                                relative,
                                next_input.mutable_data_ptr(),
                                thought,
                                stride};
  const Kernels& active = kernels();
  torch::stable::parallel_for(0, rows, kRowGrain,
                              [&](int64_t first, int64_t last) { active.next_thought(call, first, last); });
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("next_thought", TORCH_BOX(&latent_ext::next_thought));
}
