#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "attention_blocks.h"
#include "check.h"
#include "scratch.h"

namespace latent_ext {

namespace {

struct Shape {
  int64_t rows, heads, kv_heads, head_dim, prompts, max_prompt, slots, max_suffix;
};

const int64_t* indices(const Tensor& tensor) {
  return static_cast<const int64_t*>(tensor.const_data_ptr());
}

// Every index that will be followed, and that no two rows write the same place.
void check_places(const Shape& shape, const int64_t* prompt_index, const int64_t* prompt_len,
                  const int64_t* ancestry, const int64_t* suffix_len) {
  check_indices("prompt_index", prompt_index, shape.rows, 0, shape.prompts);
  check_indices("prompt_len", prompt_len, shape.prompts, 0, shape.max_prompt + 1);
  check_indices("suffix_len", suffix_len, shape.rows, 0, shape.max_suffix);
  std::vector<std::pair<int64_t, int64_t>> written(shape.rows);  // (place, row)
  for (int64_t row = 0; row < shape.rows; ++row) {
    const int64_t* slots = ancestry + row * shape.max_suffix;
    for (int64_t s = 0; s <= suffix_len[row]; ++s) {
      STD_TORCH_CHECK(slots[s] >= 0 && slots[s] < shape.slots, "ancestry must be in [0, ", shape.slots,
                      "), got ", slots[s], " in row ", row, " at suffix position ", s);
    }
    written[row] = {slots[suffix_len[row]] * shape.max_suffix + suffix_len[row], row};
  }
  std::sort(written.begin(), written.end());
  for (int64_t i = 1; i < shape.rows; ++i) {
    STD_TORCH_CHECK(written[i - 1].first != written[i].first,
                    "ancestry must give every row its own place to write, got rows ", written[i - 1].second,
                    " and ", written[i].second, " with slot ", written[i].first / shape.max_suffix,
                    " at suffix position ", written[i].first % shape.max_suffix);
  }
}

// Writes the new position of every row; source: [rows, kv_heads, head_dim], suffix: [slots, kv_heads,
// max_suffix, head_dim].
void store_new_position(const Shape& shape, size_t element_size, const void* source, void* suffix,
                        const int64_t* ancestry, const int64_t* suffix_len) {
  const int64_t bytes = shape.head_dim * static_cast<int64_t>(element_size);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const int64_t position = suffix_len[row];
    const int64_t slot = ancestry[row * shape.max_suffix + position];
    for (int64_t h = 0; h < shape.kv_heads; ++h) {
      std::memcpy(
          static_cast<char*>(suffix) + ((slot * shape.kv_heads + h) * shape.max_suffix + position) * bytes,
          static_cast<const char*>(source) + (row * shape.kv_heads + h) * bytes, bytes);
    }
  }
}

Tensor prefix_decode_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor& prefix_key, const Tensor& prefix_value,
                               const Tensor& prompt_index, const Tensor& prompt_len, const Tensor& suffix_key,
                               const Tensor& suffix_value, const Tensor& ancestry, const Tensor& suffix_len,
                               double scale) {
  const bool bfloat16 =
      check_storage("query", query, {{"rows", kAnySize}, {"heads", kAnySize}, {"head_dim", kAnySize}});
  const ScalarType dtype = query.scalar_type();
  const int64_t rows = query.size(0), heads = query.size(1), head_dim = query.size(2);
  check_tensor("key", key, dtype, {{"rows", rows}, {"kv_heads", kAnySize}, {"head_dim", head_dim}});
  const int64_t kv_heads = key.size(1);
  STD_TORCH_CHECK(
      head_dim > 0 && kv_heads > 0 && heads % kv_heads == 0, "key must have kv_heads that divide the ", heads,
      " heads of query, and head_dim of at least 1, got kv_heads ", kv_heads, ", head_dim ", head_dim);
  check_tensor("value", value, dtype, {{"rows", rows}, {"kv_heads", kv_heads}, {"head_dim", head_dim}});
  check_tensor(
      "prefix_key", prefix_key, dtype,
      {{"prompts", kAnySize}, {"kv_heads", kv_heads}, {"max_prompt", kAnySize}, {"head_dim", head_dim}});
  const int64_t prompts = prefix_key.size(0), max_prompt = prefix_key.size(2);
  check_tensor(
      "prefix_value", prefix_value, dtype,
      {{"prompts", prompts}, {"kv_heads", kv_heads}, {"max_prompt", max_prompt}, {"head_dim", head_dim}});
  check_tensor("prompt_index", prompt_index, ScalarType::Long, {{"rows", rows}});
  check_tensor("prompt_len", prompt_len, ScalarType::Long, {{"prompts", prompts}});
  check_tensor(
      "suffix_key", suffix_key, dtype,
      {{"slots", kAnySize}, {"kv_heads", kv_heads}, {"max_suffix", kAnySize}, {"head_dim", head_dim}});
  const int64_t slots = suffix_key.size(0), max_suffix = suffix_key.size(2);
  check_tensor(
      "suffix_value", suffix_value, dtype,
      {{"slots", slots}, {"kv_heads", kv_heads}, {"max_suffix", max_suffix}, {"head_dim", head_dim}});
  check_tensor("ancestry", ancestry, ScalarType::Long, {{"rows", rows}, {"max_suffix", max_suffix}});
  check_tensor("suffix_len", suffix_len, ScalarType::Long, {{"rows", rows}});
  STD_TORCH_CHECK(std::isfinite(scale), "scale must be finite, got ", scale);
  const Shape shape = {rows, heads, kv_heads, head_dim, prompts, max_prompt, slots, max_suffix};
  check_places(shape, indices(prompt_index), indices(prompt_len), indices(ancestry), indices(suffix_len));

  const Tensor out = new_tensor({rows, heads, head_dim}, dtype);
  // all new positions are stored before any row attends: a row may read what another one has just written
  store_new_position(shape, key.element_size(), key.const_data_ptr(), suffix_key.mutable_data_ptr(),
                     indices(ancestry), indices(suffix_len));
  store_new_position(shape, value.element_size(), value.const_data_ptr(), suffix_value.mutable_data_ptr(),
                     indices(ancestry), indices(suffix_len));
  const AttentionCall call = {bfloat16,
                              heads,
                              kv_heads,
                              head_dim,
                              max_prompt,
                              max_suffix,
                              query.const_data_ptr(),
                              prefix_key.const_data_ptr(),
                              prefix_value.const_data_ptr(),
                              suffix_key.const_data_ptr(),
                              suffix_value.const_data_ptr(),
                              indices(ancestry),
                              indices(suffix_len),
                              static_cast<float>(scale),
                              out.mutable_data_ptr()};
  std::vector<int64_t> order;
  const std::vector<AttentionBlock> blocks = attention_blocks(
      {rows, heads / kv_heads, indices(prompt_index), indices(prompt_len), indices(suffix_len)}, order);
  const Kernels& active = kernels();
  const int64_t floats = attention_floats(active, call, blocks);
  const int64_t tasks = static_cast<int64_t>(blocks.size()) * kv_heads;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
    const Scratch scratch = new_scratch(floats);
    for (int64_t task = first; task < last; ++task) {
      AttentionBlock block = blocks[task / kv_heads];
      block.kv_head = task % kv_heads;
      active.attend(call, block, scratch.get());
    }
  });
  return out;
}

}  // namespace

}  // namespace latent_ext

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CPU, m) {
  m.impl("prefix_decode_attention", TORCH_BOX(&latent_ext::prefix_decode_attention));
}
