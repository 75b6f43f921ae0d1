#include "launch.h"
#include "prefix_decode_attention.cuh"

namespace latent_ext {
namespace {

Tensor prefix_decode_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor& prefix_key, const Tensor& prefix_value,
                               const Tensor& prompt_index, const Tensor& prompt_len, Tensor suffix_key,
                               Tensor suffix_value, const Tensor& ancestry, const Tensor& suffix_len,
                               double scale) {
  const ArgumentCheck check("prefix_decode_attention", "query", query);
  check.dimensions("query", query, 3);
  check.dimensions("key", key, 3);
  check.dimensions("prefix_key", prefix_key, 4);
  check.dimensions("suffix_key", suffix_key, 4);
  const int64_t rows = query.size(0), heads = query.size(1), head_dim = query.size(2), kv_heads = key.size(1);
  const int64_t prompts = prefix_key.size(0), max_prompt = prefix_key.size(2);
  const int64_t slots = suffix_key.size(0), max_suffix = suffix_key.size(2);
  STD_TORCH_CHECK(kv_heads >= 1 && heads % kv_heads == 0,
                  "prefix_decode_attention: kv_heads of key must divide the ", heads, " heads of query, got ",
                  kv_heads);
  check.tensor("query", query, {rows, heads, head_dim});
  check.tensor("key", key, {rows, kv_heads, head_dim});
  check.tensor("value", value, {rows, kv_heads, head_dim});
  check.tensor("prefix_key", prefix_key, {prompts, kv_heads, max_prompt, head_dim});
  check.tensor("prefix_value", prefix_value, {prompts, kv_heads, max_prompt, head_dim});
  check.tensor("prompt_index", prompt_index, {rows}, ScalarType::Long);
  check.tensor("prompt_len", prompt_len, {prompts}, ScalarType::Long);
  check.tensor("suffix_key", suffix_key, {slots, kv_heads, max_suffix, head_dim});
  check.tensor("suffix_value", suffix_value, {slots, kv_heads, max_suffix, head_dim});
  check.tensor("ancestry", ancestry, {rows, max_suffix}, ScalarType::Long);
  check.tensor("suffix_len", suffix_len, {rows}, ScalarType::Long);

  Tensor out = torch::stable::empty_like(query);
  if (rows == 0 || heads == 0) return out;
  for_storage_type(check.dtype(), [&](auto storage) {
    using T = decltype(storage);
    PrefixDecodeAttentionArguments<T> a{};
    a.query = static_cast<const T*>(query.const_data_ptr());
    a.key = static_cast<const T*>(key.const_data_ptr());
    a.value = static_cast<const T*>(value.const_data_ptr());
    a.prefix_key = static_cast<const T*>(prefix_key.const_data_ptr());
    a.prefix_value = static_cast<const T*>(prefix_value.const_data_ptr());
    a.prompt_index = prompt_index.const_data_ptr<int64_t>();
    a.prompt_len = prompt_len.const_data_ptr<int64_t>();
    a.suffix_key = static_cast<T*>(suffix_key.mutable_data_ptr());
    a.suffix_value = static_cast<T*>(suffix_value.mutable_data_ptr());
    a.ancestry = ancestry.const_data_ptr<int64_t>();
    a.suffix_len = suffix_len.const_data_ptr<int64_t>();
    a.out = static_cast<T*>(out.mutable_data_ptr());
    a.prompts = prompts;
    a.max_prompt = max_prompt;
    a.slots = slots;
    a.max_suffix = max_suffix;
    a.heads = check.size("heads", heads);
    a.kv_heads = static_cast<int>(check.blocks("kv_heads", kv_heads, 65535));
    a.head_dim = check.size("head_dim", head_dim);
    a.scale = static_cast<float>(scale);
    a.wide = can_read_packs<T>(a.head_dim, {a.key, a.prefix_key, a.suffix_key});
    const int group = a.heads / a.kv_heads, heads_per_block = group < kHeadsPerBlock ? group : kHeadsPerBlock;
    const unsigned head_blocks = check.blocks("heads", (group + kHeadsPerBlock - 1) / kHeadsPerBlock, 65535);
    launch_kernel(prefix_decode_attention_kernel<T>,
                  {check.blocks("rows", rows), static_cast<unsigned>(a.kv_heads), head_blocks},
                  kAttentionThreads, attention_shared_bytes(heads_per_block, a.head_dim),
                  query.get_device_index(), a);
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CUDA, m) {
  m.impl("prefix_decode_attention", TORCH_BOX(&prefix_decode_attention));
}

}  // namespace
}  // namespace latent_ext
