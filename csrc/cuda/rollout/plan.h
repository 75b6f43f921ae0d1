// A rollout's arguments from a packed model and one block of memory, for the launcher and for tests on the
// host.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.cuh"
#include "cpu/packed_model.h"
#include "linear.cuh"
#include "rows.cuh"

namespace latent_ext {

static_assert(sizeof(RolloutArguments) + sizeof(RolloutLayers) + 256 < 32764,
              "the parameters of a kernel must fit");

// Sections of one packed model.
class SectionIndexer {
 public:
  explicit SectionIndexer(const void* base) : base_(static_cast<const unsigned char*>(base)) {}

  SectionIndex operator()(const void* section) const {
    if (section == nullptr) return 0;
    return static_cast<SectionIndex>((static_cast<const unsigned char*>(section) - base_) / 64);
  }
  RolloutLinear linear(const PackedLinear& linear) const {
    return {(*this)(linear.panels), (*this)(linear.bias)};
  }
  RolloutNorm norm(const PackedNorm& norm) const {
    return {(*this)(norm.weight), (*this)(norm.bias), norm.eps, norm.kind};
  }

 private:
  const unsigned char* base_;
};

// The format of all linear layers. Throws std::runtime_error where there are two.
inline WeightFormat only_format(const char* argument, const PackedModel& model) {
  const WeightFormat format = model.layers[0].query_key_value.format;
  const auto check = [&](const PackedLinear& linear) {
    if (linear.outputs > 0 && linear.format != format) {
      throw std::runtime_error(std::string(argument) + " has linear layers of two formats; CUDA takes one");
    }
  };
  for (const PackedLayer& layer : model.layers) {
    check(layer.query_key_value);
    check(layer.attention_output);
    check(layer.mlp_in);
    check(layer.mlp_out);
  }
  for (const PackedStage& stage : model.stages) check(stage.linear);
  return format;
}

inline RolloutActivation rollout_activation(Activation activation) {
  return static_cast<RolloutActivation>(static_cast<int>(activation));
}

// What a body has from its packed model. Throws std::runtime_error that names the argument for a shape that
// the kernels do not serve.
inline void set_body(const char* argument, const PackedModel& model, const void* base, RolloutBody& body,
                     RolloutLayer (&layers)[kMaxRolloutLayers]) {
  const auto refuse = [&](const std::string& what) {
    throw std::runtime_error(std::string(argument) + " cannot run on CUDA: " + what);
  };
  if (model.layers.size() > kMaxRolloutLayers) {
    refuse("it has " + std::to_string(model.layers.size()) + " layers; at most " +
           std::to_string(kMaxRolloutLayers) + " are allowed");
  }
  if (model.head_dim > 256) {
    refuse("head_dim is " + std::to_string(model.head_dim) + "; at most 256 is allowed");
  }
  if (std::max(model.hidden, model.widest_stage()) > 12288) {
    refuse("its hidden states have " + std::to_string(std::max(model.hidden, model.widest_stage())) +
           " values; at most 12288 are allowed");
  }
  const int64_t widest_layer = std::max(
      {model.query_key_value_size() * model.hidden, (model.gated ? 2 : 1) * model.inner * model.hidden});
  if (widest_layer >= int64_t{1} << 32) refuse("a linear layer has 2^32 weights or more");
  const SectionIndexer index(base);
  body.model = static_cast<const unsigned char*>(base);
  body.hidden = static_cast<int>(model.hidden);
  body.heads = static_cast<int>(model.heads);
  body.kv_heads = static_cast<int>(model.kv_heads);
  body.head_dim = static_cast<int>(model.head_dim);
  body.inner = static_cast<int>(model.inner);
  body.gated = model.gated;
  body.drops_attention_output = model.drops_attention_output;
  body.activation = rollout_activation(model.activation);
  body.inverse_frequencies = index(model.inverse_frequencies);
  body.rotation_scale = model.rotation_scale;
  body.first_norm = index.norm(model.layers[0].attention_norm);
  body.final_norm = index.norm(model.final_norm);
  body.score_weight = index(model.score_weight);
  body.score_bias = index(model.score_bias);
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const PackedLayer& layer = model.layers[l];
    layers[l] = {index.linear(layer.query_key_value),
                 index.linear(layer.attention_output),
                 index.linear(layer.mlp_in),
                 index.linear(layer.mlp_out),
                 index.norm(layer.attention_norm),
                 index.norm(layer.mlp_norm),
                 layer.attention_scale};
  }
}

inline void set_head(const PackedModel& model, const void* base, RolloutArguments& a) {
  const SectionIndexer index(base);
  int inputs = static_cast<int>(model.hidden);
  a.program.stages = static_cast<int>(model.stages.size());
  for (size_t s = 0; s < model.stages.size(); ++s) {
    const PackedStage& stage = model.stages[s];
    const bool linear = stage.linear.outputs > 0;
    a.stage[s] = {linear ? index.linear(stage.linear) : RolloutLinear{0, 0},
                  linear ? RolloutNorm{} : index.norm(stage.norm), rollout_activation(stage.activation),
                  inputs, static_cast<int>(stage.size)};
    inputs = a.stage[s].outputs;
  }
  a.thought_norm = index.norm(model.thought_norm);
  a.thought_scale = model.thought_scale;
  a.stage_width = static_cast<int>((model.widest_stage() + 7) / 8 * 8);
}

// Parts of one block of memory, each at a multiple of 256 bytes; only counted where there is no memory.
class Carver {
 public:
  explicit Carver(unsigned char* memory) : memory_(memory) {}

  template <typename T>
  void take(T*& part, int64_t count) {
    part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
  }
  // The same in T behind an untyped pointer.
  template <typename T>
  void take_as(void*& part, int64_t count) {
    T* typed;
    take(typed, count);
    part = typed;
  }
  size_t used() const { return used_; }

 private:
  unsigned char* memory_;
  size_t used_ = 0;
};

// Pointers of everything between phases; the sizes and the program must be set. Returns the bytes needed.
template <typename T>
size_t set_workspace(RolloutArguments& a, unsigned char* memory) {
  Carver carver(memory);
  const int64_t capacity = a.capacity, steps = a.program.steps;
  carver.take(a.arrived, 1);  // first: the launcher clears it
  for (RowTable& table : a.table) {
    carver.take(table.keys, capacity);
    for (int b = 0; b < 2; ++b) carver.take(table.prompt[b], capacity);
    carver.take(table.slots[kGenerator], capacity * a.body[kGenerator].max_suffix);
    carver.take(table.slots[kReward], capacity * steps);
    carver.take(table.lineage, capacity * steps);
    carver.take(table.total, capacity);
  }
  carver.take(a.parent, capacity);
  carver.take(a.kept, capacity);
  a.thought_store = a.thoughts;
  a.score_store = a.step_scores;
  if (a.program.pruned) {
    carver.take(a.thought_store, capacity * steps * a.body[kGenerator].hidden);
    carver.take(a.score_store, capacity * steps);
  }
  for (int i = 0; i < 2; ++i) {
    carver.take(a.stage_values[i], capacity * a.stage_width);
    carver.take_as<T>(a.stage_inputs[i], capacity * a.stage_width);
  }
  for (int b = 0; b < (a.program.reward() ? 2 : 1); ++b) {
    RolloutBody& body = a.body[b];
    const int64_t hidden = body.hidden, context = int64_t{body.heads} * body.head_dim;
    const int splits = std::max(split_count(static_cast<int>(context)), split_count(body.inner));
    carver.take(body.residual, capacity * hidden);
    carver.take_as<T>(body.normed, capacity * hidden);
    carver.take(body.query_key_value, capacity * body.query_key_value_size());
    carver.take_as<T>(body.context, capacity * context);
    carver.take_as<T>(body.inner_rows, capacity * body.inner);
    carver.take(body.partial, splits * capacity * hidden);
    if (body.inverse_frequencies != 0) {
      carver.take(body.cosines, capacity * (body.head_dim / 2));
      carver.take(body.sines, capacity * (body.head_dim / 2));
    }
    if (b == kReward) {
      // The LatentRM's own pages: nothing of them is needed afterwards.
      const int64_t values = int64_t{a.program.layers[b]} * capacity * body.kv_heads * steps * body.head_dim;
      carver.take_as<T>(body.suffix_key, values);
      carver.take_as<T>(body.suffix_value, values);
    }
  }
  return carver.used();
}

// The order of things; `keep` has one entry per step, or none.
inline void set_program(RolloutArguments& a, int64_t rows, int64_t questions, int64_t steps,
                        int64_t suffix_len, bool first_is_hidden, const std::vector<int64_t>& keep,
                        int64_t candidates) {
  RolloutProgram& program = a.program;
  program.rows = rows;
  program.questions = questions;
  program.steps = static_cast<int>(steps);
  program.suffix_len = static_cast<int>(suffix_len);
  program.first_is_hidden = first_is_hidden;
  program.candidates = static_cast<int>(candidates);
  program.pruned = std::any_of(keep.begin(), keep.end(), [](int64_t kept) { return kept != 0; });
  program.separate = program.pruned && candidates > 1 && a.dropout.active;
  for (size_t t = 0; t < keep.size() && program.pruned; ++t) {
    program.keep[t] = static_cast<int>(std::min<int64_t>(keep[t], INT32_MAX));
  }
}

// A hidden state's rows can be read in 16 bytes at a time, wherever they start.
inline bool wide_rows(int hidden, std::initializer_list<const void*> pointers) {
  return can_read_packs<float>(hidden, pointers);
}

inline int widest_row(const RolloutArguments& a) {
  const int reward = a.program.reward() ? a.body[kReward].hidden : 0;
  return std::max({a.body[kGenerator].hidden, reward, a.stage_width});
}

}  // namespace latent_ext
