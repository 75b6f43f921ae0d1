#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "check.h"
#include "latent_ext/topk_order.h"

namespace latent_ext {

namespace {

constexpr int64_t kRowGrain = 16;

// survivors: [keep], best first, -1 where rows run out.
void best_rows(const float* total, int64_t first, int64_t last, int64_t keep, int64_t* survivors) {
  std::vector<int64_t> rows(last - first);
  std::iota(rows.begin(), rows.end(), first);
  const int64_t kept = std::min(keep, last - first);
  std::partial_sort(rows.begin(), rows.begin() + kept, rows.end(),
                    [&](int64_t a, int64_t b) { return ranks_before(total[a], a, total[b], b); });
  std::copy_n(rows.begin(), kept, survivors);
  std::fill(survivors + kept, survivors + keep, -1);
}

std::tuple<Tensor, Tensor, Tensor> score_and_prune(const Tensor& hidden, const Tensor& weight,
                                                   std::optional<Tensor> bias, const Tensor& cumulative,
                                                   const Tensor& question_offsets, int64_t keep) {
  const bool bfloat16 = check_storage("hidden", hidden, {{"rows", kAnySize}, {"hidden", kAnySize}});
  const ScalarType dtype = hidden.scalar_type();
  const int64_t rows = hidden.size(0), size = hidden.size(1);
  STD_TORCH_CHECK(size > 0, "hidden must have at least 1 element per row, got 0");
  check_tensor("weight", weight, dtype, {{"hidden", size}});
  if (bias) check_tensor("bias", *bias, dtype, {{"one", 1}});
  check_tensor("cumulative", cumulative, ScalarType::Float, {{"rows", rows}});
  check_tensor("question_offsets", question_offsets, ScalarType::Long, {{"questions + 1", kAnySize}});
  STD_TORCH_CHECK(keep >= 0, "keep must not be negative, got ", keep);
  const int64_t questions = question_offsets.size(0) - 1;
  STD_TORCH_CHECK(questions >= 0, "question_offsets must have at least one element, got none");
  const int64_t* offsets = static_cast<const int64_t*>(question_offsets.const_data_ptr());
  STD_TORCH_CHECK(offsets[0] == 0 && offsets[questions] == rows,
                  "question_offsets must run from 0 to rows = ", rows, ", got ", offsets[0], " .. ",
                  offsets[questions]);
  for (int64_t b = 0; b < questions; ++b) {
    STD_TORCH_CHECK(offsets[b] <= offsets[b + 1], "question_offsets must not decrease, got ", offsets[b],
                    " before ", offsets[b + 1], " at index ", b);
  }

  const Tensor step_score = new_tensor({rows}, ScalarType::Float);
  const Tensor total = new_tensor({rows}, ScalarType::Float);
  const Tensor survivors = new_tensor({questions, keep}, ScalarType::Long);
  float* totals = static_cast<float*>(total.mutable_data_ptr());
  int64_t* survivor = static_cast<int64_t*>(survivors.mutable_data_ptr());
  const ScoreCall call = {bfloat16,
                          size,
                          hidden.const_data_ptr(),
                          weight.const_data_ptr(),
                          data_or_null(bias),
                          static_cast<const float*>(cumulative.const_data_ptr()),
                          static_cast<float*>(step_score.mutable_data_ptr()),
                          totals};
  const Kernels& active = kernels();
  torch::stable::parallel_for(0, rows, kRowGrain,
                              [&](int64_t first, int64_t last) { active.score(call, first, last); });
  torch::stable::parallel_for(0, questions, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      best_rows(totals, offsets[b], offsets[b + 1], keep, survivor + b * keep);
  });
  return {step_score, total, survivors};
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("score_and_prune", TORCH_BOX(&latent_ext::score_and_prune));
}
