#include "packed_arguments.h"

#include <cmath>

#include "latent_ext/philox.h"

namespace latent_ext {

PackedModel check_packed_model(const char* name, const Tensor& bytes) {
  check_tensor(name, bytes, ScalarType::Byte, {{"bytes", kAnySize}});
  return view_packed_model(name, bytes.const_data_ptr(), bytes.size(0));
}

const float* check_embedding(const char* name, const Tensor& table, const PackedModel& model) {
  check_tensor(name, table, ScalarType::Float, {{"entries", kAnySize}, {"hidden", model.hidden}});
  return static_cast<const float*>(table.const_data_ptr());
}

const float* check_position_embedding(const char* name, const std::optional<Tensor>& table,
                                      const PackedModel& model) {
  if (!table) return nullptr;
  STD_TORCH_CHECK(!model.inverse_frequencies, name, " must be None for a model that rotates by position");
  return check_embedding(name, *table, model);
}

PromptCache check_prompt_cache(const char* key_name, const Tensor& key, const char* value_name,
                               const Tensor& value, const PackedModel& model) {
  const int64_t layers = static_cast<int64_t>(model.layers.size());
  check_tensor(key_name, key, ScalarType::Float,
               {{"layers", layers},
                {"prompts", kAnySize},
                {"kv_heads", model.kv_heads},
                {"max_prompt", kAnySize},
                {"head_dim", model.head_dim}});
  const int64_t prompts = key.size(1), max_prompt = key.size(3);
  check_tensor(value_name, value, ScalarType::Float,
               {{"layers", layers},
                {"prompts", prompts},
                {"kv_heads", model.kv_heads},
                {"max_prompt", max_prompt},
                {"head_dim", model.head_dim}});
  return {float_data(key), float_data(value), prompts, max_prompt};
}

SuffixPages check_suffix_pages(const Tensor& key, const Tensor& value, const PackedModel& model) {
  const PromptCache cache = check_prompt_cache("suffix_key", key, "suffix_value", value, model);
  return {cache.keys, cache.values, cache.prompts, cache.max_prompt};
}

void check_last_position(int64_t last, const std::optional<Tensor>& position_embedding, const char* what) {
  STD_TORCH_CHECK(last < int64_t(kFixedPosition), what, " would reach position ", last,
                  "; the draws have positions below ", kFixedPosition);
  if (!position_embedding) return;
  STD_TORCH_CHECK(last < position_embedding->size(0), what, " would reach position ", last,
                  "; position_embedding has ", position_embedding->size(0));
}

int64_t check_seed(const Tensor& seed) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.is_cpu() && seed.numel() == 1,
                  "seed must be one int64 on the CPU, got ", seed.numel(),
                  " elements or another dtype or device");
  return *int64_data(seed);
}

PassDraws check_draws(double p, bool per_trajectory, bool embedding, double svp, const PackedModel& model,
                      const Tensor& seed) {
  STD_TORCH_CHECK(p >= 0 && p < 1, "p must be in [0, 1), got ", p);
  STD_TORCH_CHECK(std::isfinite(svp) && svp >= 0, "svp must be finite and not negative, got ", svp);
  STD_TORCH_CHECK(svp == 0 || model.value_rank > 0,
                  "model must be packed with the spectra of its W_V where svp is not 0, got svp ", svp);
  return {p, per_trajectory, embedding, static_cast<float>(svp), check_seed(seed)};
}

int native_threads() {
  return static_cast<int>(torch::stable::get_num_threads());
}

}  // namespace latent_ext
