// Attention of many rows over one prompt and their own suffixes, for one kv head.
//
// The prompt's keys are transposed sixteen positions at a time, so that a lane is a position and a score is
// one fma chain along head_dim; every tile serves all query vectors of the block. Values are streamed in
// blocks of positions, each read once for all of them. Scores are kept for the whole row (prompt, padded to
// 16, then suffix, padded to 16), so the softmax knows its maximum before the first exp and no result depends
// on how the work was cut.
#include "kernels.h"
#include "lane_loops.h"
#include "latent_ext/elementary.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

// Register blocks: query vectors x accumulators that fit the registers of the level.
#if LATENT_EXT_PART_BYTES == 64
constexpr int kScoreQueries = 8, kValueQueries = 4, kValueLanes = 4;
#elif LATENT_EXT_PART_BYTES == 32
constexpr int kScoreQueries = 4, kValueQueries = 2, kValueLanes = 2;
#else
constexpr int kScoreQueries = 2, kValueQueries = 1, kValueLanes = 2;
#endif
constexpr int64_t kValueBlock = 64;  // positions whose values stay in L1 while all queries use them

LATENT_EXT_INLINE int64_t padded(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

typedef float FourFloats __attribute__((vector_size(16)));
typedef float UnalignedFourFloats __attribute__((vector_size(16), aligned(4), may_alias));

// tile[d][position] = rows[position][d] for sixteen rows of `width` floats, width a multiple of 16.
LATENT_EXT_INLINE void transpose_sixteen(const float* rows, int64_t width, float* tile) {
  for (int64_t d = 0; d < width; d += 4) {
    for (int position = 0; position < kLanes; position += 4) {
      const float* from = rows + position * width + d;
      const FourFloats a = *reinterpret_cast<const UnalignedFourFloats*>(from);
      const FourFloats b = *reinterpret_cast<const UnalignedFourFloats*>(from + width);
      const FourFloats c = *reinterpret_cast<const UnalignedFourFloats*>(from + 2 * width);
      const FourFloats e = *reinterpret_cast<const UnalignedFourFloats*>(from + 3 * width);
      const FourFloats ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const FourFloats ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const FourFloats ce_low = __builtin_shufflevector(c, e, 0, 4, 1, 5);
      const FourFloats ce_high = __builtin_shufflevector(c, e, 2, 6, 3, 7);
      float* to = tile + d * kLanes + position;
      *reinterpret_cast<UnalignedFourFloats*>(to) = __builtin_shufflevector(ab_low, ce_low, 0, 1, 4, 5);
      *reinterpret_cast<UnalignedFourFloats*>(to + kLanes) =
          __builtin_shufflevector(ab_low, ce_low, 2, 3, 6, 7);
      *reinterpret_cast<UnalignedFourFloats*>(to + 2 * kLanes) =
          __builtin_shufflevector(ab_high, ce_high, 0, 1, 4, 5);
      *reinterpret_cast<UnalignedFourFloats*>(to + 3 * kLanes) =
          __builtin_shufflevector(ab_high, ce_high, 2, 3, 6, 7);
    }
  }
}

// One block's scratch and sizes.
template <class Storage>
struct Work {
  const AttentionCall& call;
  const AttentionBlock& block;
  int64_t group;         // query heads per kv head
  int64_t queries;       // row_count * group; query vector q belongs to row q / group
  int64_t width;         // head_dim rounded up to 16
  int64_t prompt_width;  // prompt_len rounded up to 16: where the suffix scores begin
  int64_t score_width;
  float* query;   // [queries, width], fp32, zero past head_dim
  float* staged;  // [16, width]
  float* tile;    // [width, 16]
  float* scores;  // [queries, score_width]
  float* out;     // [queries, width]
  float* sums;    // [queries]

  LATENT_EXT_INLINE int64_t row(int64_t q) const { return block.rows[q / group]; }
  LATENT_EXT_INLINE bool causal() const { return block.causal_first >= 0; }
  // Prompt positions that query vector q attends to.
  LATENT_EXT_INLINE int64_t seen(int64_t q) const {
    return causal() ? block.causal_first + q / group + 1 : block.prompt_len;
  }
  // Suffix positions of query vector q, the new one included.
  LATENT_EXT_INLINE int64_t suffix(int64_t q) const { return causal() ? 0 : call.suffix_len[row(q)] + 1; }
  LATENT_EXT_INLINE int64_t head_offset(int64_t q) const {
    return (row(q) * call.heads + block.kv_head * group + q % group) * call.head_dim;
  }
  LATENT_EXT_INLINE int64_t prefix_offset(int64_t position) const {
    return ((block.prompt * call.kv_heads + block.kv_head) * call.max_prompt + position) * call.head_dim;
  }
  LATENT_EXT_INLINE int64_t suffix_offset(int64_t r, int64_t position) const {
    const int64_t slot = call.ancestry[r * call.max_suffix + position];
    return ((slot * call.kv_heads + block.kv_head) * call.max_suffix + position) * call.head_dim;
  }
};

template <class Storage>
LATENT_EXT_INLINE void widen(const Storage* from, int64_t count, float* to) {
  each_sixteen(count, [&](int64_t i, int64_t left)
                          LATENT_EXT_INLINE_LAMBDA { store_lanes(to + i, load_row(from + i, left)); });
}

template <int kCount>
LATENT_EXT_INLINE void score_tile(const float* tile, const float* query, int64_t width, int64_t head_dim,
                                  float scale, float* scores, int64_t score_width) {
  Floats sum[kCount];
  LATENT_EXT_UNROLL
  for (int q = 0; q < kCount; ++q) sum[q] = Floats(0.0f);
  for (int64_t d = 0; d < head_dim; ++d) {
    const Floats keys = load_lanes(tile + d * kLanes);
    LATENT_EXT_UNROLL
    for (int q = 0; q < kCount; ++q) sum[q] = multiply_add(Floats(query[q * width + d]), keys, sum[q]);
  }
  LATENT_EXT_UNROLL
  for (int q = 0; q < kCount; ++q) store_lanes(scores + q * score_width, sum[q] * Floats(scale));
}

template <class Storage>
void score_prompt(const Work<Storage>& work) {
  const Storage* keys = static_cast<const Storage*>(work.call.prefix_key);
  const int64_t head_dim = work.call.head_dim, prompt_len = work.block.prompt_len;
  for (int64_t position = 0; position < prompt_len; position += kLanes) {
    const int64_t valid = prompt_len - position < kLanes ? prompt_len - position : kLanes;
    for (int64_t i = 0; i < valid; ++i) {
      widen(keys + work.prefix_offset(position + i), head_dim, work.staged + i * work.width);
    }
    for (int64_t i = valid * work.width; i < kLanes * work.width; ++i) work.staged[i] = 0.0f;
    transpose_sixteen(work.staged, work.width, work.tile);
    int64_t q = 0;
    for (; q + kScoreQueries <= work.queries; q += kScoreQueries) {
      score_tile<kScoreQueries>(work.tile, work.query + q * work.width, work.width, head_dim, work.call.scale,
                                work.scores + q * work.score_width + position, work.score_width);
    }
    for (; q < work.queries; ++q) {
      score_tile<1>(work.tile, work.query + q * work.width, work.width, head_dim, work.call.scale,
                    work.scores + q * work.score_width + position, work.score_width);
    }
  }
  for (int64_t q = 0; q < work.queries; ++q) {
    float* scores = work.scores + q * work.score_width;
    for (int64_t position = work.seen(q); position < work.prompt_width; ++position)
      scores[position] = -__builtin_inff();
  }
}

template <class Storage>
void score_suffix(const Work<Storage>& work) {
  const Storage* keys = static_cast<const Storage*>(work.call.suffix_key);
  const int64_t head_dim = work.call.head_dim;
  for (int64_t i = 0; i < work.block.row_count; ++i) {
    const int64_t r = work.block.rows[i];
    const int64_t positions = work.call.suffix_len[r] + 1;
    for (int64_t g = 0; g < work.group; ++g) {
      const int64_t q = i * work.group + g;
      const float* query = work.query + q * work.width;
      float* scores = work.scores + q * work.score_width + work.prompt_width;
      for (int64_t s = 0; s < positions; ++s) {
        scores[s] = dot(query, keys + work.suffix_offset(r, s), head_dim) * work.call.scale;
      }
      for (int64_t s = positions; s < padded(positions); ++s) scores[s] = -__builtin_inff();
    }
  }
}

// Scores become exp(score - largest); sums are kept and divided out at the end.
template <class Storage>
void softmax(const Work<Storage>& work) {
  for (int64_t q = 0; q < work.queries; ++q) {
    float* scores = work.scores + q * work.score_width;
    const int64_t count = work.prompt_width + padded(work.suffix(q));
    Floats largest(-__builtin_inff());
    for (int64_t i = 0; i < count; i += kLanes) {
      const Floats x = load_lanes(scores + i);
      largest = select(x > largest, x, largest);
    }
    const Floats shift(largest_lane(largest));
    Floats sum(0.0f);
    for (int64_t i = 0; i < count; i += kLanes) {
      const Floats weight = softmax_exp(load_lanes(scores + i) - shift);
      store_lanes(scores + i, weight);
      sum = sum + weight;
    }
    work.sums[q] = sum_of_lanes(sum);
  }
}

// out[q][d ..] += sum over positions of weights[q][position] * value_row(position)[d ..], for kQueries x
// kVectors accumulators; left: elements of the row from d on, kVectors * 16 or more unless kVectors is 1.
template <int kQueries, int kVectors, class ValueRow>
LATENT_EXT_INLINE void add_values(const ValueRow& value_row, int64_t d, int64_t left, const float* weights,
                                  int64_t score_width, int64_t count, float* out, int64_t width) {
  Floats sum[kQueries][kVectors];
  LATENT_EXT_UNROLL
  for (int q = 0; q < kQueries; ++q) {
    LATENT_EXT_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[q][v] = load_lanes(out + q * width + d + v * kLanes);
  }
  for (int64_t position = 0; position < count; ++position) {
    const auto* row = value_row(position) + d;
    Floats value[kVectors];
    LATENT_EXT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      value[v] = load_row(row + v * kLanes, kVectors == 1 ? left : int64_t(kLanes));
    LATENT_EXT_UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const Floats weight(weights[q * score_width + position]);
      LATENT_EXT_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[q][v] = multiply_add(weight, value[v], sum[q][v]);
    }
  }
  LATENT_EXT_UNROLL
  for (int q = 0; q < kQueries; ++q) {
    LATENT_EXT_UNROLL
    for (int v = 0; v < kVectors; ++v) store_lanes(out + q * width + d + v * kLanes, sum[q][v]);
  }
}

template <int kQueries, class ValueRow>
LATENT_EXT_INLINE void add_value_rows(const ValueRow& value_row, int64_t head_dim, const float* weights,
                                      int64_t score_width, int64_t count, float* out, int64_t width) {
  int64_t d = 0;
  for (; d + kValueLanes * kLanes <= head_dim; d += kValueLanes * kLanes) {
    add_values<kQueries, kValueLanes>(value_row, d, kValueLanes * kLanes, weights, score_width, count, out,
                                      width);
  }
  for (; d < head_dim; d += kLanes) {
    add_values<kQueries, 1>(value_row, d, head_dim - d, weights, score_width, count, out, width);
  }
}

template <class Storage>
void weigh_prompt(const Work<Storage>& work) {
  const Storage* values = static_cast<const Storage*>(work.call.prefix_value);
  const int64_t head_dim = work.call.head_dim;
  for (int64_t i = 0; i < work.queries * work.width; ++i) work.out[i] = 0.0f;
  for (int64_t position = 0; position < work.block.prompt_len; position += kValueBlock) {
    const int64_t left = work.block.prompt_len - position;
    const int64_t count = left < kValueBlock ? left : kValueBlock;
    const Storage* first = values + work.prefix_offset(position);
    const auto value_row = [&](int64_t i) LATENT_EXT_INLINE_LAMBDA { return first + i * head_dim; };
    int64_t q = 0;
    for (; q + kValueQueries <= work.queries; q += kValueQueries) {
      add_value_rows<kValueQueries>(value_row, head_dim, work.scores + q * work.score_width + position,
                                    work.score_width, count, work.out + q * work.width, work.width);
    }
    for (; q < work.queries; ++q) {
      add_value_rows<1>(value_row, head_dim, work.scores + q * work.score_width + position, work.score_width,
                        count, work.out + q * work.width, work.width);
    }
  }
}

template <class Storage>
void weigh_suffix_and_store(const Work<Storage>& work) {
  const Storage* values = static_cast<const Storage*>(work.call.suffix_value);
  const int64_t head_dim = work.call.head_dim;
  for (int64_t q = 0; q < work.queries; ++q) {
    const int64_t r = work.row(q);
    float* out = work.out + q * work.width;
    const auto value_row = [&](int64_t s)
                               LATENT_EXT_INLINE_LAMBDA { return values + work.suffix_offset(r, s); };
    add_value_rows<1>(value_row, head_dim, work.scores + q * work.score_width + work.prompt_width,
                      work.score_width, work.suffix(q), out, work.width);
    Storage* to = static_cast<Storage*>(work.call.out) + work.head_offset(q);
    const Floats sum(work.sums[q]);
    each_sixteen(head_dim, [&](int64_t d, int64_t left) LATENT_EXT_INLINE_LAMBDA {
      store_row(to + d, load_lanes(out + d) / sum, left);
    });
  }
}

int64_t attention_scratch(const AttentionCall& call, int64_t row_count, int64_t prompt_len,
                          int64_t suffix_positions) {
  const int64_t queries = row_count * (call.heads / call.kv_heads), width = padded(call.head_dim);
  return queries * (2 * width + padded(prompt_len) + padded(suffix_positions)) + 2 * kLanes * width +
         padded(queries);
}

template <class Storage>
void attend_block(const AttentionCall& call, const AttentionBlock& block, float* scratch) {
  const int64_t group = call.heads / call.kv_heads;
  const int64_t queries = block.row_count * group, width = padded(call.head_dim);
  const int64_t prompt_width = padded(block.prompt_len);
  const int64_t score_width = prompt_width + padded(block.suffix_positions);
  float* staged = scratch + queries * width;
  float* tile = staged + kLanes * width;
  float* scores = tile + kLanes * width;
  float* out = scores + queries * score_width;
  const Work<Storage> work = {call,    block,  group, queries, width, prompt_width,         score_width,
                              scratch, staged, tile,  scores,  out,   out + queries * width};
  for (int64_t q = 0; q < queries; ++q) {
    widen(static_cast<const Storage*>(call.query) + work.head_offset(q), call.head_dim,
          work.query + q * width);
  }
  score_prompt(work);
  if (!work.causal()) score_suffix(work);
  softmax(work);
  weigh_prompt(work);
  weigh_suffix_and_store(work);
}

void attend(const AttentionCall& call, const AttentionBlock& block, float* scratch) {
  call.bfloat16 ? attend_block<BFloat16>(call, block, scratch) : attend_block<float>(call, block, scratch);
}

}  // namespace

void add_attention_kernels(Kernels& table) {
  table.attention_scratch = attention_scratch;
  table.attend = attend;
}

LATENT_EXT_NAMESPACE_END
