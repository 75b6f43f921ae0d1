// residual_out = residual + dropout(branch) and its norm, row by row. The first pass draws, adds and stores;
// the norm then reads the rounded row back from L1, so it sees exactly what the caller gets.
#include "kernels.h"
#include "latent_ext/dropout.h"
#include "norm_lanes.h"
#include "random_lanes.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

template <class Storage>
LATENT_EXT_INLINE void add_dropped(const Storage* branch, const Storage* residual, Storage* sum,
                                   int64_t hidden, const Dropout& dropout, const Draw& draw) {
  int64_t i = 0;
  for (; i + kDrawBlock <= hidden; i += kDrawBlock) {
    const WordBlock words = random_words(draw, static_cast<uint64_t>(i));
    for (int half = 0; half < 2; ++half) {
      const int64_t at = i + half * kLanes;
      store_lanes(sum + at,
                  load_lanes(residual + at) + drop(dropout, words.half[half], load_lanes(branch + at)));
    }
  }
  if (i == hidden) return;
  const WordBlock words = random_words(draw, static_cast<uint64_t>(i));
  for (int half = 0; half < 2 && i < hidden; ++half, i += kLanes) {
    const int64_t left = hidden - i;
    store_row(sum + i,
              load_row(residual + i, left) + drop(dropout, words.half[half], load_row(branch + i, left)),
              left);
  }
}

template <class Storage>
LATENT_EXT_INLINE void add(const Storage* branch, const Storage* residual, Storage* sum, int64_t hidden) {
  each_sixteen(hidden, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
    store_row(sum + i, load_row(residual + i, left) + load_row(branch + i, left), left);
  });
}

template <class Storage>
void rows(const DropoutAddNormCall& call, int64_t first_row, int64_t last_row) {
  const Dropout dropout = make_dropout(call.p);
  const Storage* weight = static_cast<const Storage*>(call.weight);
  const Storage* bias = static_cast<const Storage*>(call.bias);
  for (int64_t row = first_row; row < last_row; ++row) {
    const Storage* branch = static_cast<const Storage*>(call.branch) + row * call.hidden;
    const Storage* residual = static_cast<const Storage*>(call.residual) + row * call.hidden;
    Storage* sum = static_cast<Storage*>(call.residual_out) + row * call.hidden;
    Storage* normed = static_cast<Storage*>(call.normed) + row * call.hidden;
    if (dropout.active) {
      const Draw draw =
          make_draw(call.draws.seed, call.draws.keys[row], call.site, call.draws.positions[row]);
      add_dropped(branch, residual, sum, call.hidden, dropout, draw);
    } else {
      add(branch, residual, sum, call.hidden);
    }
    const Moments moments = row_moments(sum, call.hidden, call.norm, call.eps);
    each_sixteen(call.hidden, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
      const Floats y = normalized(load_row(sum + i, left), moments, weight ? weight + i : nullptr,
                                  bias ? bias + i : nullptr, left);
      store_row(normed + i, y, left);
    });
  }
}

void dropout_add_norm(const DropoutAddNormCall& call, int64_t first_row, int64_t last_row) {
  call.bfloat16 ? rows<BFloat16>(call, first_row, last_row) : rows<float>(call, first_row, last_row);
}

}  // namespace

void add_dropout_add_norm_kernel(Kernels& table) {
  table.dropout_add_norm = dropout_add_norm;
}

LATENT_EXT_NAMESPACE_END
