// Query, key and value of each row to their places, query and key rotated by the row's position (RoPE; Su et
// al., arXiv 2104.09864, in the half-split order of Hugging Face's Llama).
#include "kernels.h"
#include "lane_loops.h"

LATENT_EXT_NAMESPACE_BEGIN

namespace {

LATENT_EXT_INLINE void copy(const float* from, int64_t count, float* to) {
  each_sixteen(count, [&](int64_t i, int64_t left)
                          LATENT_EXT_INLINE_LAMBDA { store_row(to + i, load_row(from + i, left), left); });
}

LATENT_EXT_INLINE void rotate(const float* from, int64_t half, const float* cosines, const float* sines,
                              float* to) {
  each_sixteen(half, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
    const Floats first = load_row(from + i, left), second = load_row(from + half + i, left);
    const Floats cosine = load_row(cosines + i, left), sine = load_row(sines + i, left);
    store_row(to + i, first * cosine - second * sine, left);
    store_row(to + half + i, second * cosine + first * sine, left);
  });
}

void place_heads(const PlaceHeadsCall& call, int64_t first_row, int64_t last_row) {
  const int64_t size = call.head_dim, half = size / 2;
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* query = call.query_key_value + row * (call.heads + 2 * call.kv_heads) * size;
    const float* key = query + call.heads * size;
    const float* value = key + call.kv_heads * size;
    float* query_to = call.query + row * call.heads * size;
    if (call.cosines) {
      const float* cosines = call.cosines + row * half;
      const float* sines = call.sines + row * half;
      for (int64_t h = 0; h < call.heads; ++h)
        rotate(query + h * size, half, cosines, sines, query_to + h * size);
      for (int64_t h = 0; h < call.kv_heads; ++h)
        rotate(key + h * size, half, cosines, sines, call.keys[row] + h * call.head_stride);
    } else {
      copy(query, call.heads * size, query_to);
      for (int64_t h = 0; h < call.kv_heads; ++h)
        copy(key + h * size, size, call.keys[row] + h * call.head_stride);
    }
    for (int64_t h = 0; h < call.kv_heads; ++h)
      copy(value + h * size, size, call.values[row] + h * call.head_stride);
  }
}

}  // namespace

void add_place_heads_kernel(Kernels& table) {
  table.place_heads = place_heads;
}

LATENT_EXT_NAMESPACE_END
