#include <tuple>

#include "launch.h"
#include "next_token.cuh"

namespace latent_ext {
namespace {

std::tuple<Tensor, Tensor> next_token(const Tensor& hidden, const std::optional<Tensor>& norm_weight,
                                      const std::optional<Tensor>& norm_bias, const Tensor& lm_head,
                                      const Tensor& keys, const Tensor& positions, const Tensor& seed,
                                      double eps, const std::string& norm, double temperature) {
  const ArgumentCheck check("next_token", "hidden", hidden);
  check.dimensions("hidden", hidden, 2);
  check.dimensions("lm_head", lm_head, 2);
  const int64_t rows = hidden.size(0), hidden_size = hidden.size(1), vocabulary = lm_head.size(0);
  check.tensor("hidden", hidden, {rows, hidden_size});
  check.tensor("norm_weight", norm_weight, {hidden_size});
  check.tensor("norm_bias", norm_bias, {hidden_size});
  check.tensor("lm_head", lm_head, {vocabulary, hidden_size});
  check.tensor("keys", keys, {rows}, ScalarType::Long);
  check.tensor("positions", positions, {rows}, ScalarType::Long);
  check.seed(seed);
  STD_TORCH_CHECK(temperature >= 0.0, "next_token: temperature must not be negative, got ", temperature);
  const NormKind norm_kind = check.norm(norm);
  const int vocabulary_blocks = static_cast<int>(
      (check.size("the vocabulary of lm_head", vocabulary, int64_t{kVocabularyBlock} * 65535) +
       kVocabularyBlock - 1) /
      kVocabularyBlock);

  Tensor token = torch::stable::empty_like(keys);
  Tensor logprob = torch::stable::new_empty(hidden, {rows}, ScalarType::Float);
  if (rows == 0) return {token, logprob};
  const Tensor choices = torch::stable::new_empty(
      hidden, {rows, vocabulary_blocks, static_cast<int64_t>(sizeof(TokenChoice))}, ScalarType::Byte);
  for_storage_type(check.dtype(), [&](auto storage) {
    using T = decltype(storage);
    NextTokenArguments<T> a{};
    a.hidden = static_cast<const T*>(hidden.const_data_ptr());
    a.norm_weight = data_or_null<T>(norm_weight);
    a.norm_bias = data_or_null<T>(norm_bias);
    a.lm_head = static_cast<const T*>(lm_head.const_data_ptr());
    a.keys = keys.const_data_ptr<int64_t>();
    a.positions = positions.const_data_ptr<int64_t>();
    a.seed = seed.const_data_ptr<int64_t>();
    a.choices = static_cast<TokenChoice*>(choices.mutable_data_ptr());
    a.rows = rows;
    a.hidden_size = check.size("hidden size", hidden_size);
    a.vocabulary = static_cast<int>(vocabulary);
    a.rows_per_block = next_token_rows_per_block<T>(a.hidden_size);
    a.eps = static_cast<float>(eps);
    a.temperature = static_cast<float>(temperature);
    a.norm = norm_kind;
    a.wide = can_read_packs<T>(a.hidden_size, {a.hidden, a.norm_weight, a.norm_bias, a.lm_head});
    const unsigned row_blocks = check.blocks("rows", (rows + a.rows_per_block - 1) / a.rows_per_block);
    launch_kernel(next_token_block_kernel<T>, {row_blocks, static_cast<unsigned>(vocabulary_blocks), 1},
                  kTokenThreads, next_token_shared_bytes<T>(a.hidden_size, a.rows_per_block),
                  hidden.get_device_index(), a);
  });
  MergeTokenArguments merge{};
  merge.choices = static_cast<const TokenChoice*>(choices.const_data_ptr());
  merge.token = token.mutable_data_ptr<int64_t>();
  merge.logprob = logprob.mutable_data_ptr<float>();
  merge.blocks = vocabulary_blocks;
  launch_kernel(merge_token_kernel, {check.blocks("rows", rows), 1, 1}, kWarpThreads, 0,
                hidden.get_device_index(), merge);
  return {token, logprob};
}

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CUDA, m) {
  m.impl("next_token", TORCH_BOX(&next_token));
}

}  // namespace
}  // namespace latent_ext
