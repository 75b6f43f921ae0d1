#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "check.h"
#include "scratch.h"

namespace latent_ext {

namespace {

constexpr int64_t kRowGrain = 4;
// Rows that read the LM head together; their normed vectors should stay in L2.
constexpr int64_t kGroupRows = 64;

std::tuple<Tensor, Tensor> next_token(const Tensor& hidden, std::optional<Tensor> norm_weight,
                                      std::optional<Tensor> norm_bias, const Tensor& lm_head,
                                      const Tensor& keys, const Tensor& positions, const Tensor& seed,
                                      double eps, std::string norm, double temperature) {
  const bool bfloat16 = check_storage("hidden", hidden, {{"rows", kAnySize}, {"hidden", kAnySize}});
  const ScalarType dtype = hidden.scalar_type();
  const int64_t rows = hidden.size(0), size = hidden.size(1);
  STD_TORCH_CHECK(size > 0, "hidden must have at least 1 element per row, got 0");
  check_tensor("lm_head", lm_head, dtype, {{"vocab", kAnySize}, {"hidden", size}});
  const int64_t vocabulary = lm_head.size(0);
  STD_TORCH_CHECK(vocabulary > 0 && vocabulary < INT32_MAX, "lm_head must have 1 to ", INT32_MAX - 1,
                  " rows, got ", vocabulary);
  const RowDraws draws = check_draws(keys, positions, seed, rows);
  const NormKind kind = check_norm(norm, eps, norm_weight, norm_bias, dtype, size, "norm_");
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature >= 0,
                  "temperature must be finite and not negative, got ", temperature);

  const Tensor token = new_tensor({rows}, ScalarType::Long);
  const Tensor logprob = new_tensor({rows}, ScalarType::Float);
  if (rows == 0) return {token, logprob};
  int64_t* tokens = static_cast<int64_t*>(token.mutable_data_ptr());
  float* logprobs = static_cast<float*>(logprob.mutable_data_ptr());
  const NextTokenCall call = {bfloat16,
                              size,
                              vocabulary,
                              hidden.const_data_ptr(),
                              data_or_null(norm_weight),
                              data_or_null(norm_bias),
                              lm_head.const_data_ptr(),
                              draws,
                              static_cast<float>(eps),
                              kind,
                              static_cast<float>(temperature),
                              nullptr};
  const Kernels& active = kernels();
  const int64_t width = (size + 15) / 16 * 16;
  const int64_t blocks = (vocabulary + kVocabularyBlock - 1) / kVocabularyBlock;
  const int64_t groups = (rows + kGroupRows - 1) / kGroupRows;
  const Scratch normed = new_scratch(rows * width);
  std::vector<TokenChoice> choices(rows * blocks);
  torch::stable::parallel_for(0, rows, kRowGrain, [&](int64_t first, int64_t last) {
    active.token_norm(call, first, last, normed.get());
  });
  torch::stable::parallel_for(0, blocks * groups, 1, [&](int64_t first, int64_t last) {
    const Scratch logits = new_scratch(std::min(rows, kGroupRows) * kVocabularyBlock);
    for (int64_t task = first; task < last; ++task) {
      // groups of one block follow each other, so that the block is still in the cache
      const int64_t block = task / groups, first_row = task % groups * kGroupRows;
      const int64_t last_row = std::min(rows, first_row + kGroupRows);
      active.token_block(call, normed.get(), first_row, last_row, block, logits.get(), choices.data());
    }
  });
  torch::stable::parallel_for(0, rows, kGroupRows, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      active.token_merge(choices.data() + row * blocks, blocks, tokens + row, logprobs + row);
    }
  });
  return {token, logprob};
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("next_token", TORCH_BOX(&latent_ext::next_token));
}
