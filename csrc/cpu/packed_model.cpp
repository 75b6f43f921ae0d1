#include "packed_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "latent_ext/sites.h"

namespace latent_ext {

namespace {

constexpr int64_t kLargest = int64_t(1)
                             << 24;  // of any size of a model: products of sizes then cannot overflow
constexpr int64_t kMaxStages = 16;

class Reader {
 public:
  Reader(const char* argument, const PackedBytes& bytes, WeightLayout layout)
      : argument_(argument),
        header_(static_cast<const char*>(bytes.header)),
        header_size_(bytes.header_size),
        base_(static_cast<const char*>(bytes.base)),
        size_(bytes.size),
        layout_(layout) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(std::string(argument_) + " is not a packed model: " + what);
  }

  int64_t number() {
    if (at_ + 8 > header_size_) fail("its header is cut off");
    int64_t value;
    std::memcpy(&value, header_ + at_, sizeof(value));
    at_ += 8;
    return value;
  }

  int64_t number(const char* name, int64_t low, int64_t high) {
    const int64_t value = number();
    if (value < low || value > high) {
      fail(std::string(name) + " must be in [" + std::to_string(low) + ", " + std::to_string(high) +
           "], got " + std::to_string(value));
    }
    return value;
  }

  float real(const char* name) {
    const int64_t bits = number();
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    // false for NaN, too
    if (!(std::fabs(value) <= std::numeric_limits<float>::max())) {
      fail(std::string(name) + " is not a finite float32");
    }
    return static_cast<float>(value);
  }

  // count elements of 4 bytes at the offset that comes next; null for offset 0 where that is allowed.
  template <class T>
  const T* section(const char* name, int64_t count, bool optional = false) {
    static_assert(sizeof(T) == 4, "sections hold words");
    const int64_t offset = number();
    if (offset == 0 && optional) return nullptr;
    if (offset <= 0 || offset % 64 != 0 || offset > size_ || count > (size_ - offset) / 4) {
      fail(std::string(name) + " lies outside of its " + std::to_string(size_) + " bytes");
    }
    return reinterpret_cast<const T*>(base_ + offset);
  }

  PackedNorm norm(const char* name, int64_t size) {
    PackedNorm norm;
    norm.kind = static_cast<NormKind>(number(name, 0, 2));
    norm.eps = real(name);
    norm.weight = section<float>(name, size, true);
    norm.bias = section<float>(name, size, true);
    return norm;
  }

  PackedLinear linear(const char* name, int64_t inputs, int64_t outputs) {
    PackedLinear linear;
    const int64_t format = number(name, 0, 4);
    const bool rows = format > static_cast<int64_t>(WeightFormat::kInt8);
    if (rows != (layout_ == WeightLayout::kRows)) {
      fail(std::string(name) +
           (rows ? " is packed for CUDA, not for the CPU" : " is packed for the CPU, not for CUDA"));
    }
    linear.format = static_cast<WeightFormat>(format);
    linear.inputs = number(name, inputs, inputs);
    linear.outputs = number(name, outputs, outputs);
    linear.panels = section<uint32_t>(name, (rows ? row_words : panel_words)(linear.format, inputs, outputs));
    const bool int8 = linear.format == WeightFormat::kInt8;
    // sums of 8-bit products must fit 32 bits
    if (int8 && inputs > 65536) fail(std::string(name) + " has more than 65536 inputs, too many for int8");
    linear.scales = section<float>(name, packed_outputs(outputs), !int8);
    linear.sums = section<int32_t>(name, packed_outputs(outputs), !int8);
    linear.bias = section<float>(name, outputs, true);
    return linear;
  }

  PackedStage stage(int64_t inputs) {
    PackedStage stage = {};
    const bool linear_stage = number("a stage's kind", 0, 1) == 0;
    stage.size = number("a stage's size", 1, kLargest);
    stage.activation = static_cast<Activation>(number("a stage's activation", 0, 4));
    if (linear_stage) {
      stage.linear = linear("a stage", inputs, stage.size);
    } else {
      if (stage.size != inputs) fail("a norm stage changes the size");
      stage.norm = norm("a stage", inputs);
    }
    return stage;
  }

 private:
  const char* argument_;
  const char* header_;
  int64_t header_size_;
  const char* base_;
  int64_t size_;
  WeightLayout layout_;
  int64_t at_ = 0;
};

}  // namespace

int64_t PackedModel::widest_stage() const {
  int64_t widest = hidden;
  for (const PackedStage& stage : stages) widest = stage.size > widest ? stage.size : widest;
  return widest;
}

PackedModel view_packed_model(const char* argument, const PackedBytes& bytes, WeightLayout layout) {
  Reader reader(argument, bytes, layout);
  if (reader.number() != kPackedMagic) reader.fail("it does not begin with the mark of one");
  const int64_t version = reader.number();
  if (version != kPackedVersion) {
    reader.fail("version " + std::to_string(version) + " is not the version " +
                std::to_string(kPackedVersion) + " that this build reads; pack the model again");
  }
  const int64_t stated = reader.number();
  const int64_t size = bytes.size;
  if (stated != size) {
    reader.fail("it states " + std::to_string(stated) + " bytes and has " + std::to_string(size));
  }
  PackedModel model = {};
  const int64_t layers = reader.number("layers", 1, kMaxLayers);
  model.hidden = reader.number("hidden", 1, kLargest);
  model.heads = reader.number("heads", 1, 65536);
  model.kv_heads = reader.number("kv_heads", 1, model.heads);
  model.head_dim = reader.number("head_dim", 1, 65536);
  if (model.heads % model.kv_heads != 0) reader.fail("kv_heads does not divide heads");
  if (model.heads * model.head_dim > kLargest) reader.fail("heads * head_dim is too large");
  model.inner = reader.number("inner", 1, kLargest);
  model.vocabulary = reader.number("vocabulary", 0, std::numeric_limits<int32_t>::max() - 1);
  model.gated = reader.number("gated", 0, 1) != 0;
  model.activation = static_cast<Activation>(reader.number("activation", 0, 4));
  model.drops_attention_output = reader.number("drops_attention_output", 0, 1) != 0;
  model.inverse_frequencies = reader.section<float>("inverse_frequencies", model.head_dim / 2, true);
  if (model.inverse_frequencies && model.head_dim % 2 != 0)
    reader.fail("head_dim must be even to be rotated");
  model.rotation_scale = reader.real("rotation_scale");
  const int64_t context = model.heads * model.head_dim;
  for (int64_t l = 0; l < layers; ++l) {
    PackedLayer layer = {};
    layer.attention_norm = reader.norm("attention_norm", model.hidden);
    layer.query_key_value = reader.linear("query_key_value", model.hidden, model.query_key_value_size());
    layer.attention_output = reader.linear("attention_output", context, model.hidden);
    layer.mlp_norm = reader.norm("mlp_norm", model.hidden);
    layer.mlp_in = reader.linear("mlp_in", model.hidden, (model.gated ? 2 : 1) * model.inner);
    layer.mlp_out = reader.linear("mlp_out", model.inner, model.hidden);
    layer.attention_scale = reader.real("attention_scale");
    model.layers.push_back(layer);
  }
  model.final_norm = reader.norm("final_norm", model.hidden);
  if (model.vocabulary > 0) model.lm_head = reader.linear("lm_head", model.hidden, model.vocabulary);
  const int64_t stages = reader.number("stages", 0, kMaxStages);
  int64_t width = model.hidden;
  for (int64_t s = 0; s < stages; ++s) {
    model.stages.push_back(reader.stage(width));
    width = model.stages.back().size;
  }
  if (width != model.hidden) reader.fail("its thought head ends with another size than hidden");
  model.thought_norm = reader.norm("thought_norm", model.hidden);
  model.thought_scale = reader.real("thought_scale");
  model.score_weight = reader.section<float>("score_weight", model.hidden, true);
  model.score_bias = reader.section<float>("score_bias", 1, true);
  model.value_rank = reader.number("value_rank", 0, std::min(model.hidden, model.value_size()));
  for (PackedLayer& layer : model.layers) {
    if (model.value_rank == 0) break;
    layer.value_right = reader.linear("value_right", model.hidden, model.value_rank);
    layer.value_left = reader.linear("value_left", model.value_rank, model.value_size());
  }
  return model;
}

}  // namespace latent_ext
