#include <algorithm>
#include <cmath>
#include <string>

#include "packed_arguments.h"
#include "rollout.h"

namespace latent_ext {

namespace {

int64_t* mutable_int64(const Tensor& tensor) {
  return static_cast<int64_t*>(tensor.mutable_data_ptr());
}

// Rows per question after every step fit the capacity; each question keeps no more than it has.
void check_pruning(const std::vector<int64_t>& keep, int64_t candidates, int64_t questions, int64_t rows,
                   int64_t steps, int64_t capacity) {
  STD_TORCH_CHECK(keep.empty() || static_cast<int64_t>(keep.size()) == steps,
                  "keep must have one entry per step (", steps, ") or none, got ", keep.size());
  STD_TORCH_CHECK(candidates >= 1 && candidates <= (1 << 20), "candidates must be in [1, 2**20], got ",
                  candidates);
  STD_TORCH_CHECK(!keep.empty() || candidates == 1, "candidates must be 1 where keep prunes nothing, got ",
                  candidates);
  int64_t width = rows / questions;
  for (int64_t t = 0; t < static_cast<int64_t>(keep.size()); ++t) {
    STD_TORCH_CHECK(keep[t] >= 0, "keep must not be negative, got ", keep[t], " for step ", t);
    if (keep[t] == 0) continue;
    width = std::min(width, keep[t]) * (t + 1 < steps ? candidates : 1);
    STD_TORCH_CHECK(width <= capacity / questions, "thoughts must have room for the ", questions * width,
                    " rows after step ", t, ", got ", capacity);
  }
}

RolloutModel reward_model(const PackedModel& model, const std::optional<Tensor>& position_embedding,
                          const std::optional<Tensor>& prompt_index, const std::optional<Tensor>& prompt_len,
                          const std::optional<Tensor>& prefix_key, const std::optional<Tensor>& prefix_value,
                          int64_t rows, int64_t hidden, int64_t steps) {
  STD_TORCH_CHECK(
      prompt_index && prompt_len && prefix_key && prefix_value,
      "reward_prompt_index, reward_prompt_len, reward_prefix_key and reward_prefix_value must be given "
      "with reward_model");
  STD_TORCH_CHECK(model.hidden == hidden, "reward_model must read thoughts of size ", hidden, ", got ",
                  model.hidden);
  STD_TORCH_CHECK(model.score_weight, "reward_model must have a score head");
  const PromptCache cache =
      check_prompt_cache("reward_prefix_key", *prefix_key, "reward_prefix_value", *prefix_value, model);
  check_tensor("reward_prompt_index", *prompt_index, ScalarType::Long, {{"rows", rows}});
  check_tensor("reward_prompt_len", *prompt_len, ScalarType::Long, {{"prompts", cache.prompts}});
  check_indices("reward_prompt_index", int64_data(*prompt_index), rows, 0, cache.prompts);
  check_indices("reward_prompt_len", int64_data(*prompt_len), cache.prompts, 0, cache.max_prompt + 1);
  const float* positions = check_position_embedding("reward_position_embedding", position_embedding, model);
  for (int64_t b = 0; b < cache.prompts; ++b) {
    check_last_position(int64_data(*prompt_len)[b] + steps - 1, position_embedding, "the LatentRM");
  }
  return {&model, positions, cache, int64_data(*prompt_len), int64_data(*prompt_index)};
}

void latent_rollout(const Tensor& model_bytes, std::optional<Tensor> position_embedding, const Tensor& first,
                    bool first_is_hidden, const Tensor& keys, const Tensor& seed, const Tensor& prompt_index,
                    const Tensor& prompt_len, const Tensor& prefix_key, const Tensor& prefix_value,
                    const Tensor& suffix_key, const Tensor& suffix_value, const Tensor& ancestry,
                    int64_t suffix_len, std::optional<Tensor> reward,
                    std::optional<Tensor> reward_position_embedding,
                    std::optional<Tensor> reward_prompt_index, std::optional<Tensor> reward_prompt_len,
                    std::optional<Tensor> reward_prefix_key, std::optional<Tensor> reward_prefix_value,
                    double p, bool per_trajectory, bool embedding, double svp, double sigma, bool relative,
                    int64_t questions, std::vector<int64_t> keep, int64_t candidates, const Tensor& thoughts,
                    std::optional<Tensor> step_scores, const Tensor& lineage, const Tensor& final_keys,
                    const Tensor& final_prompts, std::optional<Tensor>, std::optional<Tensor>,
                    std::string rung) {
  STD_TORCH_CHECK(rung == "auto", "rung must be \"auto\" on the CPU, got \"", rung, "\"");
  const PackedModel model = check_packed_model("model", model_bytes);
  const float* positions = check_position_embedding("position_embedding", position_embedding, model);
  check_tensor("first", first, ScalarType::Float, {{"rows", kAnySize}, {"hidden", model.hidden}});
  const int64_t rows = first.size(0);
  STD_TORCH_CHECK(questions >= 1 && rows >= 1 && rows % questions == 0,
                  "questions must divide the rows of first, got ", questions, " for ", rows, " rows");
  check_tensor("keys", keys, ScalarType::Long, {{"rows", rows}});
  check_tensor("prompt_index", prompt_index, ScalarType::Long, {{"rows", rows}});
  const PromptCache cache = check_prompt_cache("prefix_key", prefix_key, "prefix_value", prefix_value, model);
  check_tensor("prompt_len", prompt_len, ScalarType::Long, {{"prompts", cache.prompts}});
  check_indices("prompt_index", int64_data(prompt_index), rows, 0, cache.prompts);
  check_indices("prompt_len", int64_data(prompt_len), cache.prompts, 0, cache.max_prompt + 1);
  const SuffixPages pages = check_suffix_pages(suffix_key, suffix_value, model);
  check_tensor("thoughts", thoughts, ScalarType::Float,
               {{"capacity", kAnySize}, {"steps", kAnySize}, {"hidden", model.hidden}});
  const int64_t capacity = thoughts.size(0), steps = thoughts.size(1);
  STD_TORCH_CHECK(capacity >= rows && pages.slots >= capacity, "thoughts must have room for all ", rows,
                  " rows, and suffix_key as many slots as thoughts, got ", capacity, " and ", pages.slots);
  STD_TORCH_CHECK(steps >= 1, "thoughts must have at least one step, got none");
  check_tensor("ancestry", ancestry, ScalarType::Long,
               {{"capacity", capacity}, {"max_suffix", pages.max_suffix}});
  const int64_t passes = steps - (first_is_hidden ? 1 : 0);
  STD_TORCH_CHECK(suffix_len >= 0 && suffix_len <= pages.max_suffix - passes,
                  "suffix_key must have room for suffix_len + ", passes, " positions, got ", pages.max_suffix,
                  " with suffix_len ", suffix_len);
  for (int64_t r = 0; r < rows; ++r) {
    check_indices("ancestry", int64_data(ancestry) + r * pages.max_suffix, suffix_len, 0, pages.slots);
    const int64_t last = int64_data(prompt_len)[int64_data(prompt_index)[r]] + suffix_len + passes;
    check_last_position(last - 1, position_embedding, "the latent phase");
  }
  const PassDraws draws = check_draws(p, per_trajectory, embedding, svp, model, seed);
  STD_TORCH_CHECK(std::isfinite(sigma) && sigma >= 0, "sigma must be finite and not negative, got ", sigma);
  check_pruning(keep, candidates, questions, rows, steps, capacity);
  check_tensor("lineage", lineage, ScalarType::Long, {{"capacity", capacity}, {"steps", steps}});
  check_tensor("final_keys", final_keys, ScalarType::Long, {{"capacity", capacity}});
  check_tensor("final_prompts", final_prompts, ScalarType::Long, {{"capacity", capacity}});
  PackedModel scorer;
  RolloutModel scoring;
  STD_TORCH_CHECK(reward || keep.empty(), "keep needs a reward_model, whose scores decide");
  STD_TORCH_CHECK(reward.has_value() == step_scores.has_value(),
                  "step_scores must be given with reward_model and only then");
  if (reward) {
    scorer = check_packed_model("reward_model", *reward);
    scoring = reward_model(scorer, reward_position_embedding, reward_prompt_index, reward_prompt_len,
                           reward_prefix_key, reward_prefix_value, rows, model.hidden, steps);
    check_tensor("step_scores", *step_scores, ScalarType::Float, {{"capacity", capacity}, {"steps", steps}});
  }
  run_rollout({{&model, positions, cache, int64_data(prompt_len), int64_data(prompt_index)},
               pages,
               suffix_len,
               reward ? &scoring : nullptr,
               static_cast<const float*>(first.const_data_ptr()),
               first_is_hidden,
               rows,
               questions,
               capacity,
               steps,
               draws.seed,
               draws,
               static_cast<float>(sigma),
               relative,
               keep,
               candidates,
               int64_data(keys),
               float_data(thoughts),
               step_scores ? float_data(*step_scores) : nullptr,
               mutable_int64(lineage),
               mutable_int64(final_keys),
               mutable_int64(ancestry),
               mutable_int64(final_prompts)},
              native_threads());
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("latent_rollout", TORCH_BOX(&latent_ext::latent_rollout));
}
