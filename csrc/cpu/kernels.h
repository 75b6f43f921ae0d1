// What a launcher hands to a kernel: raw pointers and sizes, checked. Storage pointers are float or BFloat16
// as `bfloat16` says. Every kernel exists once per ISA level; kernels() gives the ones of the active level.
#pragma once

#include "latent_ext/norm.h"
#include "packed_linear.h"

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
  // While a prompt is read: row i sees the prompt's positions 0 .. causal_first + i and no suffix; prompt_len
  // is then what the last row sees. -1: all rows see the whole prompt and their suffixes.
  int64_t causal_first = -1;
};

// Query, key and value of some rows, from where a linear layer left them to where attention looks for them.
struct PlaceHeadsCall {
  int64_t heads, kv_heads, head_dim;
  const float* query_key_value;  // [rows, (heads + 2 kv_heads) * head_dim]
  const float* cosines;          // [rows, head_dim / 2] of the rotation by position, or null for none
  const float* sines;            // [rows, head_dim / 2] or null
  float* query;                  // [rows, heads, head_dim]
  float* const* keys;            // [rows], where head 0 of each row's new position goes
  float* const* values;          // [rows]
  int64_t head_stride;           // floats from head to head of a cache
};

// Rows of coordinates along singular vectors, each to be multiplied by alpha times its trajectory's normal.
struct SpectrumCall {
  int64_t rank;
  float alpha;
  const int64_t* keys;  // [rows]
  int64_t seed;
  uint32_t site;
  float* rows;  // [rows, rank]
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
  const float* least_logits;  // [rows], tokens with a smaller logit are not chosen; null: none
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
  // The choices of one block from its logits, [last_row - first_row, kVocabularyBlock]; choices: [rows,
  // blocks].
  void (*token_choices)(const NextTokenCall&, const float* logits, int64_t first_row, int64_t last_row,
                        int64_t block, TokenChoice* choices);
  // By weight format.
  void (*linear[3])(const LinearCall&, int64_t first_panel, int64_t last_panel);
  // Rows as a format reads them; words: [rows, stride], scales: [rows] for int8.
  void (*encode_rows)(WeightFormat, const float* rows, int64_t row_stride, int64_t count, int64_t inputs,
                      uint32_t* words, int64_t stride, float* scales);
  // out [rows, inner] = activation(gate) * up, of rows [gate, up].
  void (*gate)(const float* gate_and_up, int64_t inner, Activation activation, int64_t rows, float* out);
  void (*place_heads)(const PlaceHeadsCall&, int64_t first_row, int64_t last_row);
  void (*scale_spectrum)(const SpectrumCall&, int64_t first_row, int64_t last_row);
  // Test hooks, see control.h.
  void (*random_words)(int64_t seed, int64_t key, int64_t position, uint32_t site, uint64_t first,
                       int64_t count, uint32_t* out);
  void (*normals)(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, float* out);
  void (*gumbels)(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, float* out);
  void (*keep_mask)(int64_t seed, int64_t key, int64_t position, uint32_t site, int64_t count, double p,
                    bool* out);
  void (*log)(const float* x, int64_t count, float* out);
  void (*exp)(const float* x, int64_t count, float* out);
  // Multiply-adds of registers alone; returns how many (of single numbers) `rounds` rounds are.
  double (*multiply_adds)(int64_t rounds);
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
void add_linear_kernels(Kernels&);
void add_dot_kernels(Kernels&);  // only where the level is compiled with the dot instructions
void add_place_heads_kernel(Kernels&);
void add_spectrum_kernel(Kernels&);
void add_peak_kernel(Kernels&);
LATENT_EXT_NAMESPACE_END
#endif
