#include "body_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "latent_ext/philox.h"
#include "latent_ext/sites.h"

namespace latent_ext {

namespace {

int64_t widest_words(const PackedModel& model) {
  int64_t widest = words_per_row(model.lm_head.format, model.hidden);
  const auto add = [&](const PackedLinear& linear) {
    widest = std::max(widest, words_per_row(linear.format, linear.inputs));
  };
  for (const PackedLayer& layer : model.layers) {
    add(layer.query_key_value);
    add(layer.attention_output);
    add(layer.mlp_in);
    add(layer.mlp_out);
    if (model.value_rank > 0) {
      add(layer.value_right);
      add(layer.value_left);
    }
  }
  for (const PackedStage& stage : model.stages) add(stage.linear);
  return widest;
}

bool encodes(const PackedLinear& linear) {
  return linear.format != WeightFormat::kFloat32;
}

// residual += dropout(branch) and the norm of the sum, then the sum as `next` reads it, for a share of rows.
void add_and_norm(const Pass& pass, const float* residual, const PackedNorm& norm, uint32_t site, double p,
                  int64_t rows, const PackedLinear* next) {
  PassBuffers& buffers = pass.buffers;
  const Share share = share_of(pass.member, rows);
  const DropoutAddNormCall call = {false,
                                   pass.model.hidden,
                                   buffers.branch.get(),
                                   residual,
                                   norm.weight,
                                   norm.bias,
                                   {buffers.keys.data(), buffers.mask_positions.data(), pass.draws.seed},
                                   site,
                                   p,
                                   norm.eps,
                                   norm.kind,
                                   buffers.residual.get(),
                                   buffers.normed.get()};
  pass.kernels.dropout_add_norm(call, share.first, share.last);
  if (next) encode_share(pass, *next, buffers.normed.get(), rows);
}

// The input vectors with their positions, and all that is per row and not per layer.
void begin_rows(const Pass& pass, const PassRows& rows) {
  const PackedModel& model = pass.model;
  PassBuffers& buffers = pass.buffers;
  const Share share = share_of(pass.member, rows.count);
  const int64_t half = model.head_dim / 2;
  for (int64_t r = share.first; r < share.last; ++r) {
    const int64_t position = rows.positions[r];
    buffers.keys[r] = rows.keys[r];
    buffers.mask_positions[r] = pass.draws.per_trajectory ? int64_t(kFixedPosition) : position;
    float* to = buffers.branch.get() + r * model.hidden;
    const float* input = rows.inputs[r];
    if (pass.position_embedding) {
      const float* embedding = pass.position_embedding + position * model.hidden;
      for (int64_t i = 0; i < model.hidden; ++i) to[i] = input[i] + embedding[i];
    } else {
      std::memcpy(to, input, model.hidden * sizeof(float));
    }
    if (!model.inverse_frequencies) continue;
    for (int64_t i = 0; i < half; ++i) {
      // the angle in fp32, as Hugging Face's rotary embedding computes it
      const float angle = static_cast<float>(position) * model.inverse_frequencies[i];
      buffers.cosines[r * half + i] = static_cast<float>(std::cos(double(angle))) * model.rotation_scale;
      buffers.sines[r * half + i] = static_cast<float>(std::sin(double(angle))) * model.rotation_scale;
    }
  }
}

void keep_rows(PassBuffers& buffers, const PackedModel& model, const WantedRows& wanted) {
  const auto move = [&](float* values, int64_t width) {
    for (int64_t i = 0; i < wanted.count; ++i) {
      if (wanted.rows[i] != i)
        std::memcpy(values + i * width, values + wanted.rows[i] * width, width * sizeof(float));
    }
  };
  move(buffers.residual.get(), model.hidden);
  move(buffers.query.get(), model.heads * model.head_dim);
  for (int64_t i = 0; i < wanted.count; ++i) {
    buffers.keys[i] = buffers.keys[wanted.rows[i]];
    buffers.mask_positions[i] = buffers.mask_positions[wanted.rows[i]];
  }
}

}  // namespace

PassBuffers::PassBuffers(const PackedModel& model, int64_t rows)
    : max_rows(rows),
      residual(new_scratch(rows * model.hidden)),
      normed(new_scratch(rows * model.hidden)),
      branch(new_scratch(rows * model.hidden)),
      zeros(new_scratch(rows * model.widest_stage())),
      query_key_value(new_scratch(rows * model.query_key_value_size())),
      spectrum(new_scratch(rows * model.value_rank)),
      value_shift(new_scratch(model.value_rank > 0 ? rows * model.value_size() : 0)),
      query(new_scratch(rows * model.heads * model.head_dim)),
      context(new_scratch(rows * model.heads * model.head_dim)),
      gate_and_up(new_scratch(model.gated ? rows * 2 * model.inner : 0)),
      inner(new_scratch(rows * model.inner)),
      words(new_scratch(rows * widest_words(model))),
      scales(new_scratch(rows)),
      cosines(new_scratch(rows * (model.head_dim / 2))),
      sines(new_scratch(rows * (model.head_dim / 2))),
      keys(rows),
      mask_positions(rows) {
  for (Scratch& buffer : stage) buffer = new_scratch(model.stages.empty() ? 0 : rows * model.widest_stage());
  std::fill_n(zeros.get(), rows * model.widest_stage(), 0.0f);
}

EncodedRows encoded(const Pass& pass, const PackedLinear& linear, const float* x) {
  if (!encodes(linear)) return {reinterpret_cast<const uint32_t*>(x), linear.inputs, nullptr};
  return {reinterpret_cast<const uint32_t*>(pass.buffers.words.get()),
          words_per_row(linear.format, linear.inputs), pass.buffers.scales.get()};
}

void encode_share(const Pass& pass, const PackedLinear& linear, const float* x, int64_t rows) {
  if (!encodes(linear)) return;
  const Share share = share_of(pass.member, rows);
  const int64_t stride = words_per_row(linear.format, linear.inputs);
  uint32_t* words = reinterpret_cast<uint32_t*>(pass.buffers.words.get());
  pass.kernels.encode_rows(linear.format, x + share.first * linear.inputs, linear.inputs,
                           share.last - share.first, linear.inputs, words + share.first * stride, stride,
                           pass.buffers.scales.get() + share.first);
}

namespace {

// x has been encoded and all members know it.
void linear_panels(const Pass& pass, const PackedLinear& linear, const float* x, int64_t rows,
                   Activation activation, float* out) {
  const LinearCall call = {linear, encoded(pass, linear, x), rows, activation, out, linear.outputs, 0};
  const Share panels = share_of(pass.member, panel_count(linear.outputs));
  pass.kernels.linear[static_cast<int>(linear.format)](call, panels.first, panels.last);
  pass.member.wait();
}

}  // namespace

void run_linear(const Pass& pass, const PackedLinear& linear, const float* x, int64_t rows,
                Activation activation, float* out) {
  if (encodes(linear)) {
    encode_share(pass, linear, x, rows);
    pass.member.wait();
  }
  linear_panels(pass, linear, x, rows, activation, out);
}

namespace {

// Every row's own W_V: its values move by left diag(svp g) right x, g the row's normals, one per singular
// value.
void shift_values(const Pass& pass, int64_t l, int64_t rows) {
  const PackedModel& model = pass.model;
  const PackedLayer& layer = model.layers[l];
  PassBuffers& buffers = pass.buffers;
  run_linear(pass, layer.value_right, buffers.normed.get(), rows, Activation::kNone, buffers.spectrum.get());
  const Share share = share_of(pass.member, rows);
  const SpectrumCall call = {model.value_rank,
                             pass.draws.svp,
                             buffers.keys.data(),
                             pass.draws.seed,
                             layer_site(l, kLayerValueNoise),
                             buffers.spectrum.get()};
  pass.kernels.scale_spectrum(call, share.first, share.last);
  pass.member.wait();
  run_linear(pass, layer.value_left, buffers.spectrum.get(), rows, Activation::kNone,
             buffers.value_shift.get());
  const int64_t size = model.value_size(), width = model.query_key_value_size();
  for (int64_t r = share.first; r < share.last; ++r) {
    const float* shift = buffers.value_shift.get() + r * size;
    float* value = buffers.query_key_value.get() + (r + 1) * width - size;
    for (int64_t i = 0; i < size; ++i) value[i] += shift[i];
  }
  pass.member.wait();
}

}  // namespace

void run_pass(const Pass& pass, const PassRows& rows, PassAttention& attention, const WantedRows& wanted) {
  const PackedModel& model = pass.model;
  PassBuffers& buffers = pass.buffers;
  const double p = pass.draws.p;
  const double p_attention = model.drops_attention_output ? p : 0.0;
  int64_t count = rows.count;

  begin_rows(pass, rows);
  add_and_norm(pass, buffers.zeros.get(), model.layers[0].attention_norm, kSiteEmbedding,
               pass.draws.embedding ? p : 0.0, count, &model.layers[0].query_key_value);
  pass.member.wait();
  const int64_t layers = static_cast<int64_t>(model.layers.size());
  for (int64_t l = 0; l < layers; ++l) {
    const PackedLayer& layer = model.layers[l];
    const bool last = l + 1 == layers;
    linear_panels(pass, layer.query_key_value, buffers.normed.get(), count, Activation::kNone,
                  buffers.query_key_value.get());
    if (pass.draws.svp > 0.0f) shift_values(pass, l, count);
    attention.place(pass, l, count);
    pass.member.wait();
    if (last && wanted.rows) {
      if (wanted.count == 0) return;
      if (pass.member.rank == 0) {
        keep_rows(buffers, model, wanted);
        attention.keep(wanted.rows, wanted.count);
      }
      count = wanted.count;
      pass.member.wait();
    }
    attention.attend(pass, l);
    pass.member.wait();
    run_linear(pass, layer.attention_output, buffers.context.get(), count, Activation::kNone,
               buffers.branch.get());
    add_and_norm(pass, buffers.residual.get(), layer.mlp_norm, layer_site(l, kLayerAttentionOutput),
                 p_attention, count, &layer.mlp_in);
    pass.member.wait();
    if (model.gated) {
      linear_panels(pass, layer.mlp_in, buffers.normed.get(), count, Activation::kNone,
                    buffers.gate_and_up.get());
      const Share share = share_of(pass.member, count);
      pass.kernels.gate(buffers.gate_and_up.get() + share.first * 2 * model.inner, model.inner,
                        model.activation, share.last - share.first,
                        buffers.inner.get() + share.first * model.inner);
      pass.member.wait();
    } else {
      linear_panels(pass, layer.mlp_in, buffers.normed.get(), count, model.activation, buffers.inner.get());
    }
    run_linear(pass, layer.mlp_out, buffers.inner.get(), count, Activation::kNone, buffers.branch.get());
    add_and_norm(pass, buffers.residual.get(), last ? model.final_norm : model.layers[l + 1].attention_norm,
                 layer_site(l, kLayerMlpOutput), p, count,
                 last ? nullptr : &model.layers[l + 1].query_key_value);
    pass.member.wait();
  }
}

}  // namespace latent_ext
