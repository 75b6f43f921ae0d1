// Reading whole prompts: their keys and values in all layers, and the last token's hidden state.
#pragma once

#include "pass_attention.h"

namespace latent_ext {

struct PrefillCall {
  const PackedModel* model;
  const float* position_embedding;  // [max_positions, hidden] or null
  const float* token_embedding;     // [tokens of the vocabulary, hidden]
  const int64_t* tokens;            // [offsets[prompts]]
  const int64_t* offsets;           // [prompts + 1]
  const int64_t* keys;              // [prompts] trajectory keys
  PassDraws draws;
  PromptCache cache;
  float* last_hidden;  // [prompts, hidden], final norm, or null where it is not wanted
};

void run_prefill(const PrefillCall& call, int threads);

}  // namespace latent_ext
