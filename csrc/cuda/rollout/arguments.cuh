// What every phase of a rollout works with. The layers come from a packed model in rows layout (weights as
// [outputs, inputs]); they are named by offsets so that a kernel's parameters can hold those of many layers.
#pragma once

#include "../row.cuh"
#include "latent_ext/activation.h"
#include "latent_ext/dropout.h"
#include "latent_ext/norm.h"
#include "program.h"

namespace latent_ext {

constexpr int kMaxRolloutLayers = 96;  // of one body: the parameters of a kernel end at 32 kB
constexpr int kMaxHeadStages = 16;
constexpr int kMaxSplits = 4;  // of a linear layer's inputs among blocks
constexpr int kRolloutWarps = 8;
constexpr int kRolloutThreads = kRolloutWarps * kWarpThreads;

// As csrc/cpu/packed_linear.h numbers them.
enum class RolloutActivation : int { kNone = 0, kGeluTanh = 1, kGeluErf = 2, kSilu = 3, kRelu = 4 };

// A section of the packed model, in units of 64 bytes from its start; 0 for none.
using SectionIndex = uint32_t;

struct RolloutLinear {
  SectionIndex weights, bias;
};

struct RolloutNorm {
  SectionIndex weight, bias;
  float eps;
  NormKind kind;
};

struct RolloutLayer {
  RolloutLinear query_key_value, attention_output, mlp_in, mlp_out;
  RolloutNorm attention_norm, mlp_norm;
  float attention_scale;
};

// The layers of both bodies. They stay parameters of the kernel, in constant memory; the persistent kernel
// keeps everything else in shared memory.
struct RolloutLayers {
  RolloutLayer of[2][kMaxRolloutLayers];
};

struct RolloutBody {
  const unsigned char* model;
  const float* position_embedding;        // [positions, hidden] or null
  int64_t positions;                      // that there are: rows of the table, or those that draws can name
  const void *prefix_key, *prefix_value;  // [layers, prompts, kv_heads, max_prompt, head_dim]
  void *suffix_key, *suffix_value;        // [layers, slots, kv_heads, max_suffix, head_dim]
  const int64_t *prompt_len, *prompt_index;  // [prompts], [rows]
  int64_t prompts, max_prompt, slots, max_suffix;
  int hidden, heads, kv_heads, head_dim, inner;
  bool gated, drops_attention_output;
  bool wide, wide_heads;  // hidden states, head vectors can be read 16 bytes at a time
  RolloutActivation activation;
  SectionIndex inverse_frequencies;
  float rotation_scale;
  RolloutNorm first_norm, final_norm;     // before the first layer, behind the last
  SectionIndex score_weight, score_bias;  // of a LatentRM
  // Between phases, [capacity, ...]; `T` is the type of weights and caches.
  float* residual;         // [hidden]
  void* normed;            // T [hidden]
  float* query_key_value;  // [(heads + 2 kv_heads) * head_dim]
  void* context;           // T [heads * head_dim]
  void* inner_rows;        // T [inner]
  float* partial;          // [splits][capacity, hidden]
  float *cosines, *sines;  // [head_dim / 2], where positions rotate

  LATENT_EXT_HOST_DEVICE int query_key_value_size() const { return (heads + 2 * kv_heads) * head_dim; }
  LATENT_EXT_HOST_DEVICE const float* floats(SectionIndex section) const {
    return section == 0 ? nullptr : reinterpret_cast<const float*>(model + int64_t{64} * section);
  }
};

// What follows the partial sums of a layer's linear layer.
struct NormStep {
  SectionIndex bias;  // of the linear layer
  RolloutNorm norm;   // before the next one
};

struct RolloutStage {
  RolloutLinear linear;  // weights 0: a norm
  RolloutNorm norm;
  RolloutActivation activation;
  int inputs, outputs;
};

// What is known of every row, twice: pruning reads one and writes the other.
struct RowTable {
  int64_t* keys;       // [capacity]
  int64_t* prompt[2];  // [capacity], by body; -1 where the caller's indices make no sense
  int64_t* slots[2];   // [capacity, max_suffix], [capacity, steps]
  int64_t* lineage;    // [capacity, steps]
  float* total;        // [capacity]
};

struct RolloutArguments {
  RolloutProgram program;
  int64_t capacity;
  const float* first;       // [rows, hidden]
  const int64_t* keys;      // [rows]
  const int64_t* seed;      // [1]
  const int64_t* ancestry;  // [capacity, max_suffix]: the first suffix_len columns; written at the end
  Dropout dropout;
  bool per_trajectory, embedding;
  float sigma;
  bool relative;
  RolloutStage stage[kMaxHeadStages];
  RolloutNorm thought_norm;
  float thought_scale;
  // Between phases.
  RowTable table[2];
  int64_t* parent;         // [capacity]: the row of the last pass that each row comes from
  int32_t* kept;           // [capacity]: while pruning
  float* thought_store;    // [capacity, steps, hidden]: by the row that formed them
  float* score_store;      // [capacity, steps] or null
  float* stage_values[2];  // [capacity, widest stage]; the last hidden state is in the second
  void* stage_inputs[2];   // the same in T
  int stage_width;         // of a row of these
  unsigned* arrived;       // [1]: blocks at the grid barrier, 0 at launch
  // Results.
  float* thoughts;         // [capacity, steps, hidden]
  float* step_scores;      // [capacity, steps] or null
  int64_t* lineage;        // [capacity, steps]
  int64_t* final_keys;     // [capacity]
  int64_t* final_prompts;  // [capacity]
  int64_t* final_slots;    // [capacity, max_suffix], `ancestry` again
  RolloutBody body[2];
};

LATENT_EXT_HOST_DEVICE inline int64_t suffix_of(const Phase& phase, int body) {
  return body == kGenerator ? phase.suffix : phase.step;
}

__device__ __forceinline__ float activated(RolloutActivation activation, float x) {
  switch (activation) {
    case RolloutActivation::kGeluTanh:
      return gelu_tanh(x);
    case RolloutActivation::kGeluErf:
      return gelu_erf(x);
    case RolloutActivation::kSilu:
      return silu(x);
    case RolloutActivation::kRelu:
      return relu(x);
    default:
      return x;
  }
}

}  // namespace latent_ext
