#include <tuple>

#include "dropout_add_norm.cuh"
#include "launch.h"

namespace latent_ext {
namespace {

std::tuple<Tensor, Tensor> dropout_add_norm(const Tensor& branch, const Tensor& residual,
                                            const std::optional<Tensor>& weight,
                                            const std::optional<Tensor>& bias, const Tensor& keys,
                                            const Tensor& positions, const Tensor& seed, int64_t site,
                                            double p, double eps, const std::string& norm) {
  const ArgumentCheck check("dropout_add_norm", "branch", branch);
  check.dimensions("branch", branch, 2);
  const int64_t rows = branch.size(0), hidden = branch.size(1);
  check.tensor("branch", branch, {rows, hidden});
  check.tensor("residual", residual, {rows, hidden});
  check.tensor("weight", weight, {hidden});
  check.tensor("bias", bias, {hidden});
  check.tensor("keys", keys, {rows}, ScalarType::Long);
  check.tensor("positions", positions, {rows}, ScalarType::Long);
  check.seed(seed);
  STD_TORCH_CHECK(site >= 0 && site < kSiteLimit, "dropout_add_norm: site must be in [0, ", kSiteLimit,
                  "), got ", site);
  STD_TORCH_CHECK(p >= 0.0 && p < 1.0, "dropout_add_norm: p must be in [0, 1), got ", p);
  const NormKind norm_kind = check.norm(norm);

  Tensor residual_out = torch::stable::empty_like(residual), normed = torch::stable::empty_like(residual);
  if (rows == 0 || hidden == 0) return {residual_out, normed};
  for_storage_type(check.dtype(), [&](auto storage) {
    using T = decltype(storage);
    DropoutAddNormArguments<T> a{};
    a.branch = static_cast<const T*>(branch.const_data_ptr());
    a.residual = static_cast<const T*>(residual.const_data_ptr());
    a.weight = data_or_null<T>(weight);
    a.bias = data_or_null<T>(bias);
    a.keys = keys.const_data_ptr<int64_t>();
    a.positions = positions.const_data_ptr<int64_t>();
    a.seed = seed.const_data_ptr<int64_t>();
    a.residual_out = static_cast<T*>(residual_out.mutable_data_ptr());
    a.normed = static_cast<T*>(normed.mutable_data_ptr());
    a.hidden = check.size("hidden size", hidden);
    a.site = static_cast<uint32_t>(site);
    a.dropout = make_dropout(p);
    a.eps = static_cast<float>(eps);
    a.norm = norm_kind;
    a.wide = can_read_packs<T>(a.hidden, {a.branch, a.residual, a.weight, a.bias, a.residual_out, a.normed});
    a.row_in_shared = dropout_add_norm_row_fits<T>(a.hidden);
    launch_kernel(dropout_add_norm_kernel<T>, {check.blocks("rows", rows), 1, 1},
                  row_block_threads<T>(a.hidden), dropout_add_norm_shared_bytes<T>(a.hidden, a.row_in_shared),
                  branch.get_device_index(), a);
  });
  return {residual_out, normed};
}

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CUDA, m) {
  m.impl("dropout_add_norm", TORCH_BOX(&dropout_add_norm));
}

}  // namespace
}  // namespace latent_ext
