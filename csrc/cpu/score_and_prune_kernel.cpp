// The LatentRM's scalar head: one fma chain per virtual lane along the row, lanes added pairwise.
#include "kernels.h"
#include "lane_loops.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

template <class Storage>
void rows(const ScoreCall& call, int64_t first_row, int64_t last_row) {
  const int64_t size = call.hidden_size;
  const Storage* weight = static_cast<const Storage*>(call.weight);
  const float bias = call.bias ? to_float(*static_cast<const Storage*>(call.bias)) : 0.0f;
  for (int64_t row = first_row; row < last_row; ++row) {
    const Storage* hidden = static_cast<const Storage*>(call.hidden) + row * size;
    const float score = dot(hidden, weight, size) + bias;
    call.step_score[row] = score;
    call.total[row] = call.cumulative[row] + score;
  }
}

void score(const ScoreCall& call, int64_t first_row, int64_t last_row) {
  call.bfloat16 ? rows<BFloat16>(call, first_row, last_row) : rows<float>(call, first_row, last_row);
}

}  // namespace

void add_score_kernel(Kernels& table) {
  table.score = score;
}

LATENT_EXT_NAMESPACE_END
