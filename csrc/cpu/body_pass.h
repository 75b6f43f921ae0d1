// One pass of rows through the layers of a packed model: what prefill, latent steps, LatentRM and answers
// share.
//
// A pass is run by the members of a group together. Every phase is cut by rows or by panels among them, with
// a wait between phases; a group of one waits for nobody. Nothing that a member computes depends on how many
// there are.
#pragma once

#include <vector>

#include "kernels.h"
#include "packed_model.h"
#include "scratch.h"
#include "team.h"

namespace latent_ext {

struct Share {
  int64_t first, last;
};

// The part of `count` items that a member takes.
inline Share share_of(const Member& member, int64_t count) {
  return {count * member.rank / member.size, count * (member.rank + 1) / member.size};
}

// What a pass draws: Monte-Carlo dropout, and noise on the singular values of W_V that is fixed for each
// trajectory. Both 0 for a clean pass.
struct PassDraws {
  double p = 0.0;
  bool per_trajectory = false;
  bool embedding = false;
  float svp = 0.0f;
  int64_t seed = 0;
};

// Intermediate results of a group, for at most max_rows rows at a time.
struct PassBuffers {
  PassBuffers(const PackedModel& model, int64_t max_rows);

  int64_t max_rows;
  Scratch residual, normed, branch;  // [rows, hidden]
  Scratch zeros;                     // [rows, widest stage], what a norm without residual adds
  Scratch query_key_value;           // [rows, (heads + 2 kv_heads) * head_dim]
  Scratch spectrum, value_shift;     // [rows, value_rank], [rows, kv_heads * head_dim] where there is one
  Scratch query, context;            // [rows, heads * head_dim]
  Scratch gate_and_up, inner;        // [rows, 2 * inner] where gated; [rows, inner]
  Scratch stage[2];                  // [rows, widest stage]
  Scratch words, scales;             // encoded rows
  Scratch cosines, sines;            // [rows, head_dim / 2]
  std::vector<int64_t> keys, mask_positions;
};

struct Pass {
  const PackedModel& model;
  const Kernels& kernels;
  PassBuffers& buffers;
  Member member;
  PassDraws draws;
  const float* position_embedding;  // [max_positions, hidden] or null
};

struct PassRows {
  int64_t count;
  const float* const* inputs;  // [rows] pointers to [hidden]
  const int64_t* positions;    // [rows]
  const int64_t* keys;         // [rows]
};

// How rows see what was read before them. place() stores the new positions' keys and values and prepares the
// queries of a member's share of rows; attend() fills the context; keep() leaves only some rows, between the
// two.
class PassAttention {
 public:
  virtual ~PassAttention() = default;
  virtual void place(const Pass& pass, int64_t layer, int64_t rows) = 0;
  virtual void attend(const Pass& pass, int64_t layer) = 0;
  virtual void keep(const int64_t* rows, int64_t count) = 0;
};

// The rows that are wanted from the last layer on, ascending; the others only leave keys and values.
struct WantedRows {
  const int64_t* rows = nullptr;  // null: all
  int64_t count = 0;
};

// Final-norm hidden states go to buffers.normed, [wanted rows, hidden]. Ends with a wait.
void run_pass(const Pass& pass, const PassRows& rows, PassAttention& attention,
              const WantedRows& wanted = {});

// out [rows, outputs] = activation(linear(x)), x [rows, inputs]; begins and ends with all members in step.
void run_linear(const Pass& pass, const PackedLinear& linear, const float* x, int64_t rows,
                Activation activation, float* out);

// x [rows, linear.inputs] as the layer reads it: a member's share of rows, or the rows themselves for
// float32.
void encode_share(const Pass& pass, const PackedLinear& linear, const float* x, int64_t rows);
EncodedRows encoded(const Pass& pass, const PackedLinear& linear, const float* x);

}  // namespace latent_ext
