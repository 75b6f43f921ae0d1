// Packing a weight matrix into panels; see packed_linear.h for the layout.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "latent_ext/bfloat16.h"

namespace latent_ext {

namespace {

WeightFormat check_format(const std::string& format) {
  if (format == "fp32") return WeightFormat::kFloat32;
  if (format == "bf16") return WeightFormat::kBFloat16;
  STD_TORCH_CHECK(format == "int8", "format must be one of 'fp32', 'bf16', 'int8', got '", format, "'");
  return WeightFormat::kInt8;
}

// weight: [outputs, inputs]. value(output, input) gives the bits of an element, already shifted into its
// place in the word.
template <class Value>
void pack_panels(WeightFormat format, int64_t outputs, int64_t inputs, uint32_t* panels, const Value& value) {
  const int64_t per_word = inputs_per_word(format), words = words_per_row(format, inputs);
  const int64_t packed = packed_outputs(outputs);
  torch::stable::parallel_for(0, panel_count(outputs), 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const int64_t base = p * kPanelWidth, width = std::min(kPanelWidth, packed - base);
      uint32_t* panel = panels + base * words;
      for (int64_t column = 0; column < width; ++column) {
        for (int64_t word = 0; word < words; ++word) {
          uint32_t bits = 0;
          for (int64_t i = 0; i < per_word && base + column < outputs; ++i) {
            const int64_t input = word * per_word + i;
            if (input < inputs) bits |= value(base + column, input) << (i * 32 / per_word);
          }
          panel[word * width + column] = bits;
        }
      }
    }
  });
}

void pack_linear(const Tensor& weight, std::string format_name, const Tensor& panels,
                 std::optional<Tensor> scales, std::optional<Tensor> sums) {
  check_tensor("weight", weight, ScalarType::Float, {{"outputs", kAnySize}, {"inputs", kAnySize}});
  const WeightFormat format = check_format(format_name);
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  STD_TORCH_CHECK(outputs > 0 && inputs > 0, "weight must have at least one output and one input, got ",
                  outputs, " and ", inputs);
  check_tensor("panels", panels, ScalarType::Int, {{"words", panel_words(format, inputs, outputs)}});
  const bool int8 = format == WeightFormat::kInt8;
  STD_TORCH_CHECK(int8 == scales.has_value() && int8 == sums.has_value(),
                  "scales and sums must be given for format 'int8' and for no other");
  const float* values = static_cast<const float*>(weight.const_data_ptr());
  uint32_t* words = static_cast<uint32_t*>(panels.mutable_data_ptr());
  if (format == WeightFormat::kFloat32) {
    return pack_panels(format, outputs, inputs, words,
                       [&](int64_t n, int64_t k) { return bits_of(values[n * inputs + k]); });
  }
  if (format == WeightFormat::kBFloat16) {
    return pack_panels(format, outputs, inputs, words, [&](int64_t n, int64_t k) {
      return static_cast<uint32_t>(bfloat16_bits(values[n * inputs + k]));
    });
  }
  const int64_t packed = packed_outputs(outputs);
  check_tensor("scales", *scales, ScalarType::Float, {{"packed outputs", packed}});
  check_tensor("sums", *sums, ScalarType::Int, {{"packed outputs", packed}});
  float* scale = static_cast<float*>(scales->mutable_data_ptr());
  int32_t* sum = static_cast<int32_t*>(sums->mutable_data_ptr());
  std::vector<int8_t> quantised(outputs * inputs);
  std::fill_n(scale, packed, 0.0f);
  std::fill_n(sum, packed, 0);
  torch::stable::parallel_for(0, outputs, 16, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      float largest = 0.0f, check = 0.0f;
      for (int64_t k = 0; k < inputs; ++k) {
        largest = std::max(largest, std::fabs(values[n * inputs + k]));
        check += values[n * inputs + k] - values[n * inputs + k];  // 0, or NaN for infinity and NaN
      }
      if (check != 0.0f) {
        // as in a row of inputs: nothing that such a weight feeds can look healthy
        scale[n] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      scale[n] = largest / 127.0f;
      for (int64_t k = 0; k < inputs; ++k) {
        const float scaled = largest > 0.0f ? values[n * inputs + k] * (127.0f / largest) : 0.0f;
        const int8_t q = static_cast<int8_t>(std::lrintf(std::min(127.0f, std::max(-127.0f, scaled))));
        quantised[n * inputs + k] = q;
        sum[n] += q;
      }
    }
  });
  pack_panels(format, outputs, inputs, words, [&](int64_t n, int64_t k) {
    return static_cast<uint32_t>(static_cast<uint8_t>(quantised[n * inputs + k]));
  });
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("pack_linear", TORCH_BOX(&latent_ext::pack_linear));
}
