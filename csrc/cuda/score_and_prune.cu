#include <tuple>

#include "launch.h"
#include "score_and_prune.cuh"

namespace latent_ext {
namespace {

std::tuple<Tensor, Tensor, Tensor> score_and_prune(const Tensor& hidden, const Tensor& weight,
                                                   const std::optional<Tensor>& bias,
                                                   const Tensor& cumulative, const Tensor& question_offsets,
                                                   int64_t keep) {
  const ArgumentCheck check("score_and_prune", "hidden", hidden);
  check.dimensions("hidden", hidden, 2);
  const int64_t rows = hidden.size(0), hidden_size = hidden.size(1);
  check.tensor("hidden", hidden, {rows, hidden_size});
  check.tensor("weight", weight, {hidden_size});
  check.tensor("bias", bias, {1});
  check.tensor("cumulative", cumulative, {rows}, ScalarType::Float);
  check.dimensions("question_offsets", question_offsets, 1);
  STD_TORCH_CHECK(question_offsets.size(0) >= 1,
                  "score_and_prune: question_offsets must have questions + 1 elements, got 0");
  const int64_t questions = question_offsets.size(0) - 1;
  check.tensor("question_offsets", question_offsets, {questions + 1}, ScalarType::Long);
  STD_TORCH_CHECK(keep >= 0, "score_and_prune: keep must not be negative, got ", keep);
  STD_TORCH_CHECK(questions > 0 || rows == 0, "score_and_prune: question_offsets names no question for ",
                  rows, " rows");

  Tensor step_score = torch::stable::empty_like(cumulative), total = torch::stable::empty_like(cumulative);
  Tensor survivors = torch::stable::new_empty(question_offsets, {questions, keep});
  if (questions == 0) return {step_score, total, survivors};
  for_storage_type(check.dtype(), [&](auto storage) {
    using T = decltype(storage);
    ScoreAndPruneArguments<T> a{};
    a.hidden = static_cast<const T*>(hidden.const_data_ptr());
    a.weight = static_cast<const T*>(weight.const_data_ptr());
    a.bias = data_or_null<T>(bias);
    a.cumulative = cumulative.const_data_ptr<float>();
    a.question_offsets = question_offsets.const_data_ptr<int64_t>();
    a.step_score = step_score.mutable_data_ptr<float>();
    a.total = total.mutable_data_ptr<float>();
    a.survivors = survivors.mutable_data_ptr<int64_t>();
    a.rows = rows;
    a.keep = keep;
    a.hidden_size = check.size("hidden size", hidden_size);
    a.wide = can_read_packs<T>(a.hidden_size, {a.hidden, a.weight});
    launch_kernel(score_and_prune_kernel<T>, {check.blocks("questions", questions), 1, 1},
                  kScoreAndPruneThreads, 0, hidden.get_device_index(), a);
  });
  return {step_score, total, survivors};
}

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CUDA, m) {
  m.impl("score_and_prune", TORCH_BOX(&score_and_prune));
}

}  // namespace
}  // namespace latent_ext
