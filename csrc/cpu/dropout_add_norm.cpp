#include <tuple>

#include "check.h"
#include "latent_ext/philox.h"

namespace latent_ext {

namespace {

constexpr int64_t kRowGrain = 4;

std::tuple<Tensor, Tensor> dropout_add_norm(const Tensor& branch, const Tensor& residual,
                                            std::optional<Tensor> weight, std::optional<Tensor> bias,
                                            const Tensor& keys, const Tensor& positions, const Tensor& seed,
                                            int64_t site, double p, double eps, std::string norm) {
  const bool bfloat16 = check_storage("branch", branch, {{"rows", kAnySize}, {"hidden", kAnySize}});
  const ScalarType dtype = branch.scalar_type();
  const int64_t rows = branch.size(0), hidden = branch.size(1);
  STD_TORCH_CHECK(hidden > 0, "branch must have hidden of at least 1, got 0");
  check_tensor("residual", residual, dtype, {{"rows", rows}, {"hidden", hidden}});
  const RowDraws draws = check_draws(keys, positions, seed, rows);
  STD_TORCH_CHECK(site >= 0 && site < kSiteLimit, "site must be in [0, ", kSiteLimit, "), got ", site);
  STD_TORCH_CHECK(p >= 0 && p < 1, "p must be in [0, 1), got ", p);
  const NormKind kind = check_norm(norm, eps, weight, bias, dtype, hidden);

  const Tensor residual_out = new_tensor({rows, hidden}, dtype);
  const Tensor normed = new_tensor({rows, hidden}, dtype);
  const DropoutAddNormCall call = {bfloat16,
                                   hidden,
                                   branch.const_data_ptr(),
                                   residual.const_data_ptr(),
                                   data_or_null(weight),
                                   data_or_null(bias),
                                   draws,
                                   static_cast<uint32_t>(site),
                                   p,
                                   static_cast<float>(eps),
                                   kind,
                                   residual_out.mutable_data_ptr(),
                                   normed.mutable_data_ptr()};
  const Kernels& active = kernels();
  torch::stable::parallel_for(
      0, rows, kRowGrain, [&](int64_t first, int64_t last) { active.dropout_add_norm(call, first, last); });
  return {residual_out, normed};
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("dropout_add_norm", TORCH_BOX(&latent_ext::dropout_add_norm));
}
