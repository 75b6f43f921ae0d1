#include <algorithm>
#include <cmath>
#include <tuple>

#include "answers.h"
#include "packed_arguments.h"

namespace latent_ext {

namespace {

// Slots exist, and no two rows will write the same place.
void check_ancestry(const int64_t* ancestry, const int64_t* suffix_len, int64_t rows, int64_t reads,
                    const SuffixPages& pages) {
  std::vector<int64_t> writer(pages.slots * pages.max_suffix, -1);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t s = 0; s < suffix_len[r] + reads; ++s) {
      const int64_t slot = ancestry[r * pages.max_suffix + s];
      STD_TORCH_CHECK(slot >= 0 && slot < pages.slots, "ancestry must be in [0, ", pages.slots, "), got ",
                      slot, " in row ", r, " at suffix position ", s);
      if (s < suffix_len[r]) continue;
      int64_t& other = writer[slot * pages.max_suffix + s];
      STD_TORCH_CHECK(other < 0, "ancestry must give every row its own place to write, got rows ", other,
                      " and ", r, " with slot ", slot, " at suffix position ", s);
      other = r;
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> decode_answers(
    const Tensor& model_bytes, std::optional<Tensor> position_embedding, const Tensor& token_embedding,
    std::optional<Tensor> thought, const Tensor& first_token, const Tensor& keys, const Tensor& seed,
    const Tensor& prompt_index, const Tensor& prompt_len, const Tensor& prefix_key,
    const Tensor& prefix_value, const Tensor& suffix_key, const Tensor& suffix_value, const Tensor& ancestry,
    const Tensor& suffix_len, double temperature, double top_p, int64_t max_tokens, int64_t end_of_sequence) {
  const PackedModel model = check_packed_model("model", model_bytes);
  STD_TORCH_CHECK(model.vocabulary > 0, "model must have an LM head");
  const float* positions = check_position_embedding("position_embedding", position_embedding, model);
  const float* embeddings = check_embedding("token_embedding", token_embedding, model);
  STD_TORCH_CHECK(token_embedding.size(0) >= model.vocabulary,
                  "token_embedding must have an entry for each of the ", model.vocabulary,
                  " tokens of the LM head, got ", token_embedding.size(0));
  check_tensor("first_token", first_token, ScalarType::Long, {{"rows", kAnySize}});
  const int64_t rows = first_token.size(0);
  check_indices("first_token", int64_data(first_token), rows, 0, token_embedding.size(0));
  if (thought)
    check_tensor("thought", *thought, ScalarType::Float, {{"rows", rows}, {"hidden", model.hidden}});
  check_tensor("keys", keys, ScalarType::Long, {{"rows", rows}});
  check_tensor("prompt_index", prompt_index, ScalarType::Long, {{"rows", rows}});
  const PromptCache cache = check_prompt_cache("prefix_key", prefix_key, "prefix_value", prefix_value, model);
  check_tensor("prompt_len", prompt_len, ScalarType::Long, {{"prompts", cache.prompts}});
  check_indices("prompt_index", int64_data(prompt_index), rows, 0, cache.prompts);
  check_indices("prompt_len", int64_data(prompt_len), cache.prompts, 0, cache.max_prompt + 1);
  const SuffixPages pages = check_suffix_pages(suffix_key, suffix_value, model);
  check_tensor("ancestry", ancestry, ScalarType::Long, {{"rows", rows}, {"max_suffix", pages.max_suffix}});
  check_tensor("suffix_len", suffix_len, ScalarType::Long, {{"rows", rows}});
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature >= 0,
                  "temperature must be finite and not negative, got ", temperature);
  STD_TORCH_CHECK(top_p > 0 && top_p <= 1, "top_p must be in (0, 1], got ", top_p);
  STD_TORCH_CHECK(max_tokens >= 1 && max_tokens <= pages.max_suffix,
                  "max_tokens must be at least 1, and suffix_key have room for as many positions (",
                  pages.max_suffix, "), got ", max_tokens);
  // the last token is drawn and not read
  const int64_t reads = max_tokens + (thought ? 1 : 0);
  check_indices("suffix_len", int64_data(suffix_len), rows, 0, pages.max_suffix - reads + 1);
  check_ancestry(int64_data(ancestry), int64_data(suffix_len), rows, reads, pages);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t start = int64_data(prompt_len)[int64_data(prompt_index)[r]] + int64_data(suffix_len)[r];
    check_last_position(start + reads - 1, position_embedding, "an answer");
  }
  const Tensor tokens = new_tensor({rows, max_tokens}, ScalarType::Long);
  const Tensor logprobs = new_tensor({rows}, ScalarType::Float);
  const Tensor finished = new_tensor({rows}, ScalarType::Bool);
  run_answers({{&model, positions, cache, int64_data(prompt_len), int64_data(prompt_index)},
               pages,
               int64_data(ancestry),
               static_cast<int64_t*>(suffix_len.mutable_data_ptr()),
               embeddings,
               thought ? static_cast<const float*>(thought->const_data_ptr()) : nullptr,
               int64_data(first_token),
               int64_data(keys),
               check_seed(seed),
               static_cast<float>(temperature),
               top_p,
               rows,
               max_tokens,
               end_of_sequence,
               static_cast<int64_t*>(tokens.mutable_data_ptr()),
               float_data(logprobs),
               static_cast<bool*>(finished.mutable_data_ptr())},
              native_threads());
  return {tokens, logprobs, finished};
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("decode_answers", TORCH_BOX(&latent_ext::decode_answers));
}
