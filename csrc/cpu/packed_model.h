// A model in one block of bytes, as latent_ext/models/packed.py writes it: an int64 header that names every
// linear layer and norm, then their data at byte offsets. It may come from a file, so every size and offset
// is checked before anything is followed.
#pragma once

#include <cstdint>
#include <vector>

#include "latent_ext/norm.h"
#include "packed_linear.h"

namespace latent_ext {

struct PackedNorm {
  NormKind kind = NormKind::kNone;
  const float* weight = nullptr;  // [size]
  const float* bias = nullptr;    // [size] or null
  float eps = 0.0f;
};

struct PackedLayer {
  PackedNorm attention_norm;
  PackedLinear query_key_value, attention_output;
  PackedNorm mlp_norm;
  PackedLinear mlp_in, mlp_out;  // mlp_in: the gate's outputs, then the others, where the MLP is gated
  // W_V = value_left value_right, the first with orthonormal columns, the second with the singular values as
  // lengths of its rows; only where value_rank > 0
  PackedLinear value_right, value_left;
  float attention_scale;
};

// One stage between the last hidden state and the next thought: a linear layer, or a norm where outputs is 0.
struct PackedStage {
  PackedLinear linear;
  Activation activation;
  PackedNorm norm;
  int64_t size;  // of the stage's result
};

struct PackedModel {
  int64_t hidden, heads, kv_heads, head_dim, inner, vocabulary;
  bool gated;
  bool drops_attention_output;  // whether residual dropout acts there too
  Activation activation;
  const float* inverse_frequencies;  // [head_dim / 2] of the rotation by position, or null for none
  float rotation_scale;
  std::vector<PackedLayer> layers;
  PackedNorm final_norm;
  PackedLinear lm_head;  // outputs 0 where there is none
  std::vector<PackedStage> stages;
  PackedNorm thought_norm;
  float thought_scale;
  const float* score_weight;  // [hidden], of a LatentRM; else null
  const float* score_bias;    // [1] or null
  int64_t value_rank;         // singular values of each layer's W_V, or 0 where their spectra are not packed

  int64_t query_key_value_size() const { return (heads + 2 * kv_heads) * head_dim; }
  int64_t value_size() const { return kv_heads * head_dim; }
  int64_t widest_stage() const;
};

constexpr int64_t kPackedMagic = 0x4B50545845544C;  // "LTEXTPK"
constexpr int64_t kPackedVersion = 2;

// How the weights of a packed model lie: panels for the CPU, rows for CUDA.
enum class WeightLayout { kPanels, kRows };

// Where a packed model is: its header, and all of it (the header again, then the sections), which may be
// memory of a device that is not followed here.
struct PackedBytes {
  const void* header;
  int64_t header_size;
  const void* base;
  int64_t size;
};

// Views into base, which must outlive the result. Throws std::runtime_error that names the argument.
PackedModel view_packed_model(const char* argument, const PackedBytes& bytes, WeightLayout layout);

// The same of panels in host memory.
inline PackedModel view_packed_model(const char* argument, const void* bytes, int64_t size) {
  return view_packed_model(argument, {bytes, size, bytes, size}, WeightLayout::kPanels);
}

}  // namespace latent_ext
