// Logits of one block of the vocabulary for a group of rows, and what the choice needs to know of them;
// logits never leave the scratch.
//
// A logit is one fma chain per virtual lane along the hidden dimension, lanes added pairwise. A register
// block of rows x vocabulary entries reads each part of the LM head once for all its rows; a vocabulary tile
// stays in L1 while all rows of the group pass.
#include "kernels.h"
#include "latent_ext/elementary.h"
#include "latent_ext/gumbel.h"
#include "latent_ext/sites.h"
#include "norm_lanes.h"
#include "random_lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

#if LATENT_EXT_PART_BYTES == 64
constexpr int kTileRows = 4, kTileEntries = 6;
#else
constexpr int kTileRows = 4, kTileEntries = 3;
#endif
constexpr int64_t kCacheLine = 64;
constexpr uint32_t kNoEntry = 0xFFFFFFFFu;

LATENT_EXT_INLINE int64_t padded(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

template <class Storage>
void norm_rows(const NextTokenCall& call, int64_t first_row, int64_t last_row, float* normed) {
  const int64_t size = call.hidden_size;
  const Storage* weight = static_cast<const Storage*>(call.norm_weight);
  const Storage* bias = static_cast<const Storage*>(call.norm_bias);
  for (int64_t row = first_row; row < last_row; ++row) {
    const Storage* hidden = static_cast<const Storage*>(call.hidden) + row * size;
    const Moments moments = row_moments(hidden, size, call.norm, call.eps);
    each_sixteen(size, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
      const Floats y = normalized(load_row(hidden + i, left), moments, weight ? weight + i : nullptr,
                                  bias ? bias + i : nullptr, left);
      store_lanes(normed + row * padded(size) + i, zero_past_end(y, left));
    });
  }
}

// Cache lines of the next tile that are asked for while this one is computed, so that memory and arithmetic
// overlap.
struct Ahead {
  uintptr_t next;
  int64_t lines;  // per step of sixteen elements
};

// One part of the lanes at a time, so that kRows x kEntries accumulators fit the registers of every level.
template <int kRows, int kEntries, class Storage>
LATENT_EXT_INLINE void logit_tile(const float* normed, int64_t width, const Storage* entries, int64_t size,
                                  Ahead& ahead, float* logits) {
  Floats sums[kRows][kEntries];
  const int64_t whole = size / kLanes * kLanes;
  LATENT_EXT_EACH_PART {
    FloatPart sum[kRows][kEntries];
    LATENT_EXT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LATENT_EXT_UNROLL
      for (int e = 0; e < kEntries; ++e) sum[r][e] = FloatPart{};
    }
    for (int64_t k = i * kPartLanes; k < whole; k += kLanes) {
      if (i == 0) {
        for (int64_t line = 0; line < ahead.lines; ++line, ahead.next += kCacheLine) {
          __builtin_prefetch(reinterpret_cast<const void*>(ahead.next));
        }
      }
      FloatPart entry[kEntries];
      LATENT_EXT_UNROLL
      for (int e = 0; e < kEntries; ++e) entry[e] = load_part(entries + e * size + k);
      LATENT_EXT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const FloatPart x = load_part(normed + r * width + k);
        LATENT_EXT_UNROLL
        for (int e = 0; e < kEntries; ++e) sum[r][e] = multiply_add(x, entry[e], sum[r][e]);
      }
    }
    LATENT_EXT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LATENT_EXT_UNROLL
      for (int e = 0; e < kEntries; ++e) sums[r][e].part[i] = sum[r][e];
    }
  }
  if (whole < size) {
    LATENT_EXT_UNROLL
    for (int e = 0; e < kEntries; ++e) {
      const Floats entry = load_first(entries + e * size + whole, static_cast<int>(size - whole));
      LATENT_EXT_UNROLL
      for (int r = 0; r < kRows; ++r)
        sums[r][e] = multiply_add(load_lanes(normed + r * width + whole), entry, sums[r][e]);
    }
  }
  LATENT_EXT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    LATENT_EXT_UNROLL
    for (int e = 0; e < kEntries; ++e) logits[r * kVocabularyBlock + e] = sum_of_lanes(sums[r][e]);
  }
}

template <int kEntries, class Storage>
void logits_of_entries(const float* normed, int64_t rows, int64_t width, const Storage* entries, int64_t size,
                       float* logits) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t bytes = kEntries * size * static_cast<int64_t>(sizeof(Storage));
  const int64_t steps = tiles * (size / kLanes) * kCacheLine;
  Ahead ahead = {reinterpret_cast<uintptr_t>(entries) + bytes, steps == 0 ? 0 : (bytes + steps - 1) / steps};
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    logit_tile<kTileRows, kEntries>(normed + r * width, width, entries, size, ahead,
                                    logits + r * kVocabularyBlock);
  }
  for (; r < rows; ++r) {
    logit_tile<1, kEntries>(normed + r * width, width, entries, size, ahead, logits + r * kVocabularyBlock);
  }
}

// What decides: the logits, or logits / temperature + Gumbel values. Calls visit(values, first entry) for
// every sixteen.
template <class Visit>
LATENT_EXT_INLINE void each_value(const NextTokenCall& call, int64_t row, int64_t base, const float* logits,
                                  int64_t count, const Visit& visit) {
  if (call.temperature == 0.0f) {
    for (int64_t i = 0; i < count; i += kLanes) visit(load_row(logits + i, count - i), i);
    return;
  }
  const Draw draw = make_draw(call.draws.seed, call.draws.keys[row], kSiteToken, call.draws.positions[row]);
  const Floats temperature(call.temperature);
  for (int64_t i = 0; i < count; i += kDrawBlock) {
    const WordBlock words = random_words(draw, static_cast<uint64_t>(base + i));
    for (int half = 0; half < 2; ++half) {
      const int64_t at = i + half * kLanes;
      if (at >= count) break;
      visit(load_row(logits + at, count - at) / temperature + gumbel_from_word(words.half[half]), at);
    }
  }
}

TokenChoice choose(const NextTokenCall& call, int64_t row, int64_t base, const float* logits, int64_t count) {
  const float infinity = __builtin_inff();
  Floats best(-infinity);
  Words best_entry(kNoEntry);
  Floats largest(-infinity);
  const Floats least(call.least_logits ? call.least_logits[row] : -infinity);
  each_value(call, row, base, logits, count, [&](const Floats& values, int64_t first) {
    const Words entry = lane_numbers() + Words(static_cast<uint32_t>(first));
    // the first value that is not NaN is taken even if it is -inf; later ones must be larger, so ties keep
    // the smaller id
    const Flags first_number = (Words(kNoEntry - 1) < best_entry) & (values <= Floats(infinity));
    const Flags allowed =
        (entry < Words(static_cast<uint32_t>(count))) & (least <= load_row(logits + first, count - first));
    const Flags better = allowed & ((values > best) | first_number);
    best = select(better, values, best);
    best_entry = select(better, entry, best_entry);
  });
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats x = select(lane_numbers() < Words(static_cast<uint32_t>(count - i)),
                            load_row(logits + i, count - i), Floats(-infinity));
    largest = select(x > largest, x, largest);
  }
  TokenChoice choice = {-infinity, -infinity, -1, largest_lane(largest), 0.0f};

  // a block of only -inf adds nothing
  const Floats shift(choice.largest == -infinity ? 0.0f : choice.largest);
  Floats sum(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    sum = sum + zero_past_end(softmax_exp(load_row(logits + i, count - i) - shift), count - i);
  }
  choice.sum = sum_of_lanes(sum);

  float value[kLanes];
  uint32_t entry[kLanes];
  store_lanes(value, best);
  store_lanes(entry, best_entry);
  uint32_t chosen = kNoEntry;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (entry[lane] == kNoEntry) continue;
    if (chosen == kNoEntry || value[lane] > choice.value ||
        (value[lane] == choice.value && entry[lane] < chosen)) {
      chosen = entry[lane];
      choice.value = value[lane];
    }
  }
  if (chosen != kNoEntry) {
    choice.token = base + chosen;
    choice.logit = logits[chosen];
  }
  return choice;
}

void token_choices(const NextTokenCall& call, const float* logits, int64_t first_row, int64_t last_row,
                   int64_t block, TokenChoice* choices) {
  const int64_t base = block * kVocabularyBlock;
  const int64_t left = call.vocabulary - base;
  const int64_t count = left < kVocabularyBlock ? left : kVocabularyBlock;
  const int64_t blocks = (call.vocabulary + kVocabularyBlock - 1) / kVocabularyBlock;
  for (int64_t row = first_row; row < last_row; ++row) {
    choices[row * blocks + block] =
        choose(call, row, base, logits + (row - first_row) * kVocabularyBlock, count);
  }
}

template <class Storage>
void block_of_rows(const NextTokenCall& call, const float* normed, int64_t first_row, int64_t last_row,
                   int64_t block, float* logits, TokenChoice* choices) {
  const int64_t size = call.hidden_size, width = padded(size), rows = last_row - first_row;
  const int64_t base = block * kVocabularyBlock;
  const int64_t left = call.vocabulary - base;
  const int64_t count = left < kVocabularyBlock ? left : kVocabularyBlock;
  const Storage* entries = static_cast<const Storage*>(call.lm_head) + base * size;
  const float* group = normed + first_row * width;
  int64_t e = 0;
  for (; e + kTileEntries <= count; e += kTileEntries) {
    logits_of_entries<kTileEntries>(group, rows, width, entries + e * size, size, logits + e);
  }
  for (; e < count; ++e) logits_of_entries<1>(group, rows, width, entries + e * size, size, logits + e);
  token_choices(call, logits, first_row, last_row, block, choices);
}

void token_norm(const NextTokenCall& call, int64_t first_row, int64_t last_row, float* normed) {
  call.bfloat16 ? norm_rows<BFloat16>(call, first_row, last_row, normed)
                : norm_rows<float>(call, first_row, last_row, normed);
}

void token_block(const NextTokenCall& call, const float* normed, int64_t first_row, int64_t last_row,
                 int64_t block, float* logits, TokenChoice* choices) {
  call.bfloat16 ? block_of_rows<BFloat16>(call, normed, first_row, last_row, block, logits, choices)
                : block_of_rows<float>(call, normed, first_row, last_row, block, logits, choices);
}

// Blocks in order of the vocabulary: one order of the sum, and ties keep the smaller id.
void token_merge(const TokenChoice* choices, int64_t blocks, int64_t* token, float* logprob) {
  float largest = -__builtin_inff();
  const TokenChoice* best = nullptr;
  for (int64_t b = 0; b < blocks; ++b) {
    if (choices[b].largest > largest) largest = choices[b].largest;
    if (choices[b].token >= 0 && (!best || choices[b].value > best->value)) best = &choices[b];
  }
  float sum = 0.0f;
  for (int64_t b = 0; b < blocks; ++b) sum += choices[b].sum * softmax_exp(choices[b].largest - largest);
  const bool defined = best && sum == sum;
  *token = best ? best->token : 0;
  *logprob = defined ? (best->logit - largest) - portable_log(sum) : __builtin_nanf("");
}

}  // namespace

void add_next_token_kernels(Kernels& table) {
  table.token_norm = token_norm;
  table.token_block = token_block;
  table.token_merge = token_merge;
  table.token_choices = token_choices;
}

LATENT_EXT_NAMESPACE_END
