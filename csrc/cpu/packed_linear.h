// A linear layer whose weights are packed into panels, and one pass of rows through it.
//
// One output is one chain of products along the inputs, in their order, whatever the number of rows, threads
// or panels: batch mates change no bit. Panels hold 48 outputs; the last one is cut to a multiple of 16. A
// panel is a matrix of 32-bit words [groups][width]: a word holds 1, 2 or 4 neighbouring inputs of one output
// (float32, bfloat16, int8), so that the inner loop is the same walk for every format.
#pragma once

#include <stdint.h>

namespace latent_ext {

// The last two are no panels but plain rows, [outputs, inputs], as CUDA reads them.
enum class WeightFormat : int32_t {
  kFloat32 = 0,
  kBFloat16 = 1,
  kInt8 = 2,
  kFloat32Rows = 3,
  kBFloat16Rows = 4
};
enum class Activation : int32_t { kNone = 0, kGeluTanh = 1, kGeluErf = 2, kSilu = 3, kRelu = 4 };

constexpr int64_t kPanelWidth = 48;

constexpr int64_t inputs_per_word(WeightFormat format) {
  return format == WeightFormat::kFloat32 ? 1 : format == WeightFormat::kBFloat16 ? 2 : 4;
}

constexpr int64_t words_per_row(WeightFormat format, int64_t inputs) {
  return (inputs + inputs_per_word(format) - 1) / inputs_per_word(format);
}

constexpr int64_t panel_count(int64_t outputs) {
  return (outputs + kPanelWidth - 1) / kPanelWidth;
}

// Outputs rounded up to what the panels hold.
constexpr int64_t packed_outputs(int64_t outputs) {
  return (outputs + 15) / 16 * 16;
}

// Words of all panels.
constexpr int64_t panel_words(WeightFormat format, int64_t inputs, int64_t outputs) {
  return words_per_row(format, inputs) * packed_outputs(outputs);
}

// Words of all weights in rows.
constexpr int64_t row_words(WeightFormat format, int64_t inputs, int64_t outputs) {
  return format == WeightFormat::kFloat32Rows ? inputs * outputs : (inputs * outputs + 1) / 2;
}

struct PackedLinear {
  WeightFormat format;
  int64_t inputs, outputs;
  const uint32_t* panels;  // [panel_words], or rows
  const float* scales;     // int8: [packed outputs], else null
  const int32_t* sums;     // int8: sum of each output's weights, [packed outputs], else null
  const float* bias;       // [outputs] or null
};

// Rows as a format reads them: float32 as they are; bfloat16 pairs; int8 quads, each stored as value + 128.
struct EncodedRows {
  const uint32_t* words;  // [rows, stride]
  int64_t stride;         // words
  const float* scales;    // int8: [rows], else null
};

struct LinearCall {
  PackedLinear linear;
  EncodedRows rows;
  int64_t row_count;
  Activation activation;
  float* out;            // [rows, outputs from first_output on]
  int64_t out_stride;    // floats
  int64_t first_output;  // a multiple of the panel width; 0 where all outputs are stored
};

}  // namespace latent_ext
