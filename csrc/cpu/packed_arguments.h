// Arguments that the ops on packed models share, checked.
#pragma once

#include <optional>

#include "check.h"
#include "pass_attention.h"

namespace latent_ext {

PackedModel check_packed_model(const char* name, const Tensor& bytes);

// [rows of the table, hidden] fp32.
const float* check_embedding(const char* name, const Tensor& table, const PackedModel& model);
// The same or null; a model that rotates by position has none.
const float* check_position_embedding(const char* name, const std::optional<Tensor>& table,
                                      const PackedModel& model);

// key and value: [layers, prompts, kv_heads, max_prompt, head_dim] fp32.
PromptCache check_prompt_cache(const char* key_name, const Tensor& key, const char* value_name,
                               const Tensor& value, const PackedModel& model);
// key and value: [layers, slots, kv_heads, max_suffix, head_dim] fp32.
SuffixPages check_suffix_pages(const Tensor& key, const Tensor& value, const PackedModel& model);

// A position past the last one that a table or the counter of the draws has, as an error.
void check_last_position(int64_t last, const std::optional<Tensor>& position_embedding, const char* what);

PassDraws check_draws(double p, bool per_trajectory, bool embedding, double svp, const PackedModel& model,
                      const Tensor& seed);

int64_t check_seed(const Tensor& seed);
int native_threads();

inline const int64_t* int64_data(const Tensor& tensor) {
  return static_cast<const int64_t*>(tensor.const_data_ptr());
}
inline float* float_data(const Tensor& tensor) {
  return static_cast<float*>(tensor.mutable_data_ptr());
}

}  // namespace latent_ext
