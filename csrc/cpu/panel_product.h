// Rows times panels: the loops of a packed linear layer, over what one word of a format contributes to a sum.
//
// Loop order: blocks of rows that fit L2, panels, stretches of inputs (a stretch of one panel and of the rows
// stays in L2), register tiles of rows x outputs. While a stretch is used, the next one is asked for, so that
// memory and arithmetic overlap. A tile keeps its sums in registers along the whole stretch.
#pragma once

#include "lane_loops.h"
#include "packed_linear.h"

LATENT_EXT_NAMESPACE_BEGIN

// Register tile: rows x parts accumulate, and the weights of one word and one broadcast input find room.
#if LATENT_EXT_PART_BYTES == 64
constexpr int kTileRows = 8, kTileParts = 3;
#elif LATENT_EXT_PART_BYTES == 32
constexpr int kTileRows = 4, kTileParts = 3;
#else
constexpr int kTileRows = 4, kTileParts = 3;
#endif
constexpr int64_t kRowBlock = 128;      // rows that use a stretch before the next one is read
constexpr int64_t kStretchWords = 768;  // words of a row, and of a panel's column, that are used at a time
constexpr int64_t kFewRows = 2 * kTileRows;
constexpr int64_t kLine = 64;

// Asks for memory ahead of its use, one line per step.
struct Prefetch {
  const char* next;
  int64_t step;  // bytes; 0: nothing to ask for
};

// Product: Part (of sums), Weights (prepared from words), Input (broadcast), load(words), input(word),
// add(sum, input, weights).
template <class Product, int kRows, int kCount>
LATENT_EXT_INLINE void tile(const uint32_t* rows, int64_t row_stride, const uint32_t* panel, int64_t width,
                            int64_t words, bool first, Prefetch ahead, float* sums) {
  typename Product::Part sum[kRows][kCount];
  LATENT_EXT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    LATENT_EXT_UNROLL
    for (int p = 0; p < kCount; ++p) {
      sum[r][p] = first ? Product::zero() : Product::load_sum(sums + r * kPanelWidth + p * kPartLanes);
    }
  }
  for (int64_t word = 0; word < words; ++word) {
    typename Product::Weights weights[kCount];
    LATENT_EXT_UNROLL
    for (int p = 0; p < kCount; ++p) weights[p] = Product::load(panel + p * kPartLanes);
    if (ahead.step != 0) {
      __builtin_prefetch(ahead.next, 0, 2);
      ahead.next += ahead.step;
    }
    LATENT_EXT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const typename Product::Input input = Product::input(rows + r * row_stride + word);
      LATENT_EXT_UNROLL
      for (int p = 0; p < kCount; ++p) Product::add(sum[r][p], input, weights[p]);
    }
    panel += width;
  }
  LATENT_EXT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    LATENT_EXT_UNROLL
    for (int p = 0; p < kCount; ++p) Product::store_sum(sums + r * kPanelWidth + p * kPartLanes, sum[r][p]);
  }
}

// All outputs of the panel for kRows rows.
template <class Product, int kRows>
LATENT_EXT_INLINE void tile_row(const uint32_t* rows, int64_t row_stride, const uint32_t* panel,
                                int64_t width, int64_t words, bool first, const Prefetch& ahead,
                                float* sums) {
  constexpr int kColumns = kTileParts * kPartLanes;
  int64_t column = 0;
  for (; column + kColumns <= width; column += kColumns) {
    tile<Product, kRows, kTileParts>(rows, row_stride, panel + column, width, words, first, ahead,
                                     sums + column);
  }
  for (; column + 2 * kPartLanes <= width; column += 2 * kPartLanes) {
    tile<Product, kRows, 2>(rows, row_stride, panel + column, width, words, first, ahead, sums + column);
  }
  for (; column < width; column += kPartLanes) {
    tile<Product, kRows, 1>(rows, row_stride, panel + column, width, words, first, ahead, sums + column);
  }
}

template <class Product>
void last_rows(int64_t count, const uint32_t* rows, int64_t row_stride, const uint32_t* panel, int64_t width,
               int64_t words, bool first, const Prefetch& ahead, float* sums) {
  switch (count) {
#define LATENT_EXT_ROWS(n)                                                           \
  case n:                                                                            \
    tile_row<Product, n>(rows, row_stride, panel, width, words, first, ahead, sums); \
    break;
    LATENT_EXT_ROWS(1)
    LATENT_EXT_ROWS(2)
    LATENT_EXT_ROWS(3)
#if LATENT_EXT_PART_BYTES == 64
    LATENT_EXT_ROWS(4)
    LATENT_EXT_ROWS(5)
    LATENT_EXT_ROWS(6)
    LATENT_EXT_ROWS(7)
#endif
#undef LATENT_EXT_ROWS
    default:
      break;
  }
}

// One stretch of one panel for a block of rows.
template <class Product>
void stretch(const EncodedRows& rows, int64_t first_row, int64_t row_count, int64_t first_word, int64_t words,
             const uint32_t* panel, int64_t width, float* sums) {
  const uint32_t* x = rows.words + first_row * rows.stride + first_word;
  const bool first = first_word == 0;
  const int64_t tiles = (row_count + kTileRows - 1) / kTileRows;
  const int64_t bytes = words * width * static_cast<int64_t>(sizeof(uint32_t));
  const char* following = reinterpret_cast<const char*>(panel) + bytes;
  // every tile asks for its share of the following stretch; with few rows the hardware's own prefetch is
  // better
  const bool many = row_count > kFewRows;
  const int64_t share = (bytes + tiles - 1) / tiles;
  const int64_t step = many ? (share / words + kLine - 1) / kLine * kLine : 0;
  int64_t r = 0;
  for (; r + kTileRows <= row_count; r += kTileRows) {
    const Prefetch ahead = {following + r / kTileRows * share, step};
    tile_row<Product, kTileRows>(x + r * rows.stride, rows.stride, panel, width, words, first, ahead,
                                 sums + r * kPanelWidth);
  }
  if (r < row_count) {
    last_rows<Product>(row_count - r, x + r * rows.stride, rows.stride, panel, width, words, first,
                       {following + r / kTileRows * share, step}, sums + r * kPanelWidth);
  }
}

// Finish(call, row, output, count, sums, out): sums of up to 48 outputs of one row become results.
template <class Product, class Finish>
void panel_products(const LinearCall& call, int64_t first_panel, int64_t last_panel, const Finish& finish) {
  const PackedLinear& linear = call.linear;
  const int64_t words = words_per_row(linear.format, linear.inputs);
  const int64_t packed = packed_outputs(linear.outputs);
  float sums[kRowBlock * kPanelWidth];
  for (int64_t row = 0; row < call.row_count; row += kRowBlock) {
    const int64_t rows = call.row_count - row < kRowBlock ? call.row_count - row : kRowBlock;
    for (int64_t p = first_panel; p < last_panel; ++p) {
      const int64_t output = p * kPanelWidth;
      const int64_t width = packed - output < kPanelWidth ? packed - output : kPanelWidth;
      const uint32_t* panel = linear.panels + output * words;
      for (int64_t word = 0; word < words; word += kStretchWords) {
        const int64_t count = words - word < kStretchWords ? words - word : kStretchWords;
        stretch<Product>(call.rows, row, rows, word, count, panel + word * width, width, sums);
      }
      const int64_t outputs = linear.outputs - output < kPanelWidth ? linear.outputs - output : kPanelWidth;
      for (int64_t r = 0; r < rows; ++r) {
        finish(call, row + r, output, outputs, sums + r * kPanelWidth,
               call.out + (row + r) * call.out_stride + (output - call.first_output));
      }
    }
  }
}

LATENT_EXT_NAMESPACE_END
