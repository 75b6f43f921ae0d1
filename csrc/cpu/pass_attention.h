// The two ways in which the rows of a pass see what stands before them.
#pragma once

#include <vector>

#include "attention_blocks.h"
#include "body_pass.h"

namespace latent_ext {

// Prompts that were read once, all layers.
struct PromptCache {
  float* keys;    // [layers, prompts, kv_heads, max_prompt, head_dim]
  float* values;  // the same
  int64_t prompts, max_prompt;
};

// What rows added behind their prompts, all layers.
struct SuffixPages {
  float* keys;    // [layers, slots, kv_heads, max_suffix, head_dim]
  float* values;  // the same
  int64_t slots, max_suffix;
};

// Tokens of prompts are the rows: causal attention within each prompt, whose cache is filled.
class PromptAttention : public PassAttention {
 public:
  // prompt, position: of each row. Earlier positions of a prompt are in the cache or among the rows.
  PromptAttention(const Pass& pass, const PromptCache& cache, std::vector<int64_t> prompt,
                  std::vector<int64_t> position);
  void place(const Pass& pass, int64_t layer, int64_t rows) override;
  void attend(const Pass& pass, int64_t layer) override;
  void keep(const int64_t* rows, int64_t count) override;

 private:
  void make_blocks();

  const PackedModel& model_;
  const PromptCache cache_;
  std::vector<int64_t> prompt_, position_, row_;  // of each row
  std::vector<AttentionBlock> blocks_;
  std::vector<float*> key_places_, value_places_;
  std::vector<Scratch> scratch_;  // by member
};

// One new position per row, against its prompt and its own pages.
class DecodeAttention : public PassAttention {
 public:
  DecodeAttention(const PackedModel& model, const PromptCache& cache, const SuffixPages& pages, int members);
  // The rows of the next passes; all arrays must outlive them. Called by one member while the others wait.
  // ancestry: [rows, max_suffix], slots; suffix_len: [rows].
  void begin(const Kernels& kernels, int64_t rows, const int64_t* prompt_index, const int64_t* prompt_len,
             const int64_t* ancestry, const int64_t* suffix_len);
  void place(const Pass& pass, int64_t layer, int64_t rows) override;
  void attend(const Pass& pass, int64_t layer) override;
  void keep(const int64_t* rows, int64_t count) override;

 private:
  AttentionCall call(int64_t layer) const;

  const PackedModel& model_;
  const PromptCache cache_;
  const SuffixPages pages_;
  const int64_t* ancestry_ = nullptr;
  const int64_t* suffix_len_ = nullptr;
  std::vector<int64_t> order_;
  std::vector<AttentionBlock> blocks_;
  std::vector<float*> key_places_, value_places_;
  std::vector<Scratch> scratch_;  // by member
  int64_t scratch_floats_ = 0;
};

}  // namespace latent_ext
