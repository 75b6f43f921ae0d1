// What a launcher hands to a kernel: raw pointers and sizes, checked. Storage pointers are float or BFloat16
// as `bfloat16` says. Every kernel exists once per ISA level; kernels() gives the ones of the active level.
#pragma once

#include "latent_ext/norm.h"

namespace latent_ext {

// Where the rows of a call take their random numbers.
struct RowDraws {
  const int64_t* keys;       // [rows]
  const int64_t* positions;  // [rows]
  int64_t seed;
};

struct DropoutAddNormCall {
  bool bfloat16;
  int64_t hidden;
  const void* branch;    // [rows, hidden]
  const void* residual;  // [rows, hidden]
  const void* weight;    // [hidden] or null
  const void* bias;      // [hidden] or null
  RowDraws draws;
  uint32_t site;
  double p;
  float eps;
  NormKind norm;
  void* residual_out;  // [rows, hidden]
  void* normed;        // [rows, hidden]
};

struct NextThoughtCall {
  bool bfloat16;
  int64_t hidden_size;
  const void* hidden;   // [rows, hidden]
  const void* weight;   // [hidden] or null
  const void* bias;     // [hidden] or null
  const void* log_std;  // [rows, hidden] or null
  RowDraws draws;
  float eps;
  NormKind norm;
  float scale;
  float sigma;
  bool relative;
  void* next_input;         // [rows, hidden]
  void* thoughts;           // at [0, step, 0], or null
  int64_t thoughts_stride;  // elements from row to row
};

struct AttentionCall {
  bool bfloat16;
  int64_t heads, kv_heads, head_dim, max_prompt, max_suffix;
  const void* query;          // [rows, heads, head_dim]
  const void* prefix_key;     // [prompts, kv_heads, max_prompt, head_dim]
  const void* prefix_value;   // [prompts, kv_heads, max_prompt, head_dim]
  const void* suffix_key;     // [slots, kv_heads, max_suffix, head_dim]
  const void* suffix_value;   // [slots, kv_heads, max_suffix, head_dim]
  const int64_t* ancestry;    // [rows, max_suffix]
  const int64_t* suffix_len;  // [rows]
  float scale;
  void* out;  // [rows, heads, head_dim]
};

// Rows of one prompt that are attended together, and one kv head.
struct AttentionBlock {
  const int64_t* rows;  // [row_count], row numbers
  int64_t row_count;
  int64_t prompt, prompt_len, kv_head;
  int64_t suffix_positions;  // of the longest row, the new one included
};

struct ScoreCall {
  bool bfloat16;
  int64_t hidden_size;
  const void* hidden;       // [rows, hidden]
  const void* weight;       // [hidden]
  const void* bias;         // [1] or null
  const float* cumulative;  // [rows]
  float* step_score;        // [rows]
  float* total;             // [rows]
};

// Fixed, so that sums over the vocabulary have one order whatever the number of threads.
constexpr int64_t kVocabularyBlock = 384;

// The best token and the softmax sum of one block of the vocabulary.
struct TokenChoice {
  float value;    // logit, or logit / temperature + Gumbel
  float logit;    // of the token
  int64_t token;  // -1: every value was NaN
  float largest;  // largest logit that is not NaN, -inf if there is none
  float sum;      // of exp(logit - largest), NaN if a logit is
};

struct NextTokenCall {
  bool bfloat16;
  int64_t hidden_size, vocabulary;
  const void* hidden;       // [rows, hidden]
  const void* norm_weight;  // [hidden] or null
  const void* norm_bias;    // [hidden] or null
  const void* lm_head;      // [vocabulary, hidden]
  RowDraws draws;
  float eps;
  NormKind norm;
  float temperature;
};

// The kernels of one ISA level.
struct Kernels {
  void (*dropout_add_norm)(const DropoutAddNormCall&, int64_t first_row, int64_t last_row);
  void (*next_thought)(const NextThoughtCall&, int64_t first_row, int64_t last_row);
  // Floats of scratch that attend wants for a block of this size.
  int64_t (*attention_scratch)(const AttentionCall&, int64_t row_count, int64_t prompt_len,
                               int64_t suffix_positions);
  void (*attend)(const AttentionCall&, const AttentionBlock&, float* scratch);
  void (*score)(const ScoreCall&, int64_t first_row, int64_t last_row);
  // normed: fp32 [rows, hidden rounded up to 16], zero past the end.
  void (*token_norm)(const NextTokenCall&, int64_t first_row, int64_t last_row, float* normed);
  // One block of the vocabulary for rows first_row .. last_row - 1. logits: scratch [last_row - first_row,
  // kVocabularyBlock]; choices: [rows, blocks].
  void (*token_block)(const NextTokenCall&, const float* normed, int64_t first_row, int64_t last_row,
                      int64_t block, float* logits, TokenChoice* choices);
  void (*token_merge)(const TokenChoice* choices, int64_t blocks, int64_t* token, float* logprob);
  // Test hooks, see control.h.
  void (*random_words)(int64_t seed, int64_t key, int64_t position, uint32_t site, uint64_t first,
                       int64_t count, uint32_t* out);
  void (*normals)(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, float* out);
  void (*gumbels)(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, float* out);
  void (*keep_mask)(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, double p,
                    bool* out);
  void (*log)(const float* x, int64_t count, float* out);
  void (*exp)(const float* x, int64_t count, float* out);
};

// Kernels of the active level. Throws when LATENT_EXT_CPU_CAPABILITY cannot be followed.
const Kernels& kernels();

}  // namespace latent_ext

// Each *_kernel.cpp adds its functions to the table of the level it is compiled for.
#if defined(LATENT_EXT_ISA)
LATENT_EXT_NAMESPACE_BEGIN
void add_draw_kernels(Kernels&);
void add_dropout_add_norm_kernel(Kernels&);
void add_next_thought_kernel(Kernels&);
void add_attention_kernels(Kernels&);
void add_score_kernel(Kernels&);
void add_next_token_kernels(Kernels&);
LATENT_EXT_NAMESPACE_END
#endif
