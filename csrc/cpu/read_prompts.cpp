#include "packed_arguments.h"
#include "prefill.h"

namespace latent_ext {

namespace {

Tensor read_prompts(const Tensor& model_bytes, std::optional<Tensor> position_embedding,
                    const Tensor& token_embedding, const Tensor& tokens, const Tensor& offsets,
                    const Tensor& keys, const Tensor& seed, double p, bool per_trajectory, bool embedding,
                    double svp, bool last_hidden, const Tensor& prefix_key, const Tensor& prefix_value) {
  const PackedModel model = check_packed_model("model", model_bytes);
  const float* positions = check_position_embedding("position_embedding", position_embedding, model);
  const float* embeddings = check_embedding("token_embedding", token_embedding, model);
  const PromptCache cache = check_prompt_cache("prefix_key", prefix_key, "prefix_value", prefix_value, model);
  check_tensor("tokens", tokens, ScalarType::Long, {{"tokens", kAnySize}});
  check_tensor("offsets", offsets, ScalarType::Long, {{"prompts + 1", cache.prompts + 1}});
  check_tensor("keys", keys, ScalarType::Long, {{"prompts", cache.prompts}});
  const PassDraws draws = check_draws(p, per_trajectory, embedding, svp, model, seed);
  check_indices("tokens", int64_data(tokens), tokens.size(0), 0, token_embedding.size(0));
  const int64_t* offset = int64_data(offsets);
  STD_TORCH_CHECK(offset[0] == 0 && offset[cache.prompts] == tokens.size(0), "offsets must run from 0 to ",
                  tokens.size(0), ", the number of tokens, got ", offset[0], " .. ", offset[cache.prompts]);
  for (int64_t b = 0; b < cache.prompts; ++b) {
    const int64_t length = offset[b + 1] - offset[b];
    STD_TORCH_CHECK(length >= (last_hidden ? 1 : 0) && length <= cache.max_prompt,
                    "offsets must give prompt ", b, " from ", last_hidden ? 1 : 0, " to ", cache.max_prompt,
                    " tokens (max_prompt), got ", length);
    check_last_position(length - 1, position_embedding, "a prompt");
  }
  const Tensor hidden = new_tensor({last_hidden ? cache.prompts : 0, model.hidden}, ScalarType::Float);
  run_prefill({&model, positions, embeddings, int64_data(tokens), offset, int64_data(keys), draws, cache,
               last_hidden ? float_data(hidden) : nullptr},
              native_threads());
  return hidden;
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("read_prompts", TORCH_BOX(&latent_ext::read_prompts));
}
