#include "pass_attention.h"

#include <numeric>
#include <stdexcept>
#include <utility>

namespace latent_ext {

namespace {

// Tokens of a prompt that attend together while it is read; more would waste masked scores.
constexpr int64_t kCausalTokens = 32;

PlaceHeadsCall place_call(const Pass& pass, float* const* keys, float* const* values, int64_t head_stride) {
  const PackedModel& model = pass.model;
  const bool rotated = model.inverse_frequencies != nullptr;
  return {model.heads,
          model.kv_heads,
          model.head_dim,
          pass.buffers.query_key_value.get(),
          rotated ? pass.buffers.cosines.get() : nullptr,
          rotated ? pass.buffers.sines.get() : nullptr,
          pass.buffers.query.get(),
          keys,
          values,
          head_stride};
}

// The blocks, and the kv heads of each, in turn among the members.
void attend_blocks(const Pass& pass, AttentionCall call, int64_t layer,
                   const std::vector<AttentionBlock>& blocks, float* scratch) {
  call.query = pass.buffers.query.get();
  call.out = pass.buffers.context.get();
  call.scale = pass.model.layers[layer].attention_scale;
  const Share share = share_of(pass.member, static_cast<int64_t>(blocks.size()) * call.kv_heads);
  for (int64_t task = share.first; task < share.last; ++task) {
    AttentionBlock block = blocks[task / call.kv_heads];
    block.kv_head = task % call.kv_heads;
    pass.kernels.attend(call, block, scratch);
  }
}

}  // namespace

PromptAttention::PromptAttention(const Pass& pass, const PromptCache& cache, std::vector<int64_t> prompt,
                                 std::vector<int64_t> position)
    : model_(pass.model),
      cache_(cache),
      prompt_(std::move(prompt)),
      position_(std::move(position)),
      row_(prompt_.size()),
      key_places_(prompt_.size()),
      value_places_(prompt_.size()),
      scratch_(pass.member.size) {
  std::iota(row_.begin(), row_.end(), 0);
  make_blocks();
  // the longest block is the last one of the longest prompt, whatever is kept
  AttentionCall sizes = {};
  sizes.heads = model_.heads;
  sizes.kv_heads = model_.kv_heads;
  sizes.head_dim = model_.head_dim;
  const int64_t floats = attention_floats(pass.kernels, sizes, blocks_);
  for (Scratch& scratch : scratch_) scratch = new_scratch(floats);
}

void PromptAttention::make_blocks() {
  blocks_.clear();
  const int64_t rows = static_cast<int64_t>(row_.size());
  for (int64_t first = 0; first < rows;) {
    int64_t last = first + 1;
    while (last < rows && last - first < kCausalTokens && prompt_[last] == prompt_[first] &&
           position_[last] == position_[last - 1] + 1) {
      ++last;
    }
    AttentionBlock block = {row_.data() + first, last - first, prompt_[first], position_[last - 1] + 1, 0, 0,
                            position_[first]};
    blocks_.push_back(block);
    first = last;
  }
}

void PromptAttention::keep(const int64_t* rows, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    prompt_[i] = prompt_[rows[i]];
    position_[i] = position_[rows[i]];
  }
  prompt_.resize(count);
  position_.resize(count);
  row_.resize(count);
  make_blocks();
}

void PromptAttention::place(const Pass& pass, int64_t layer, int64_t rows) {
  const Share share = share_of(pass.member, rows);
  const int64_t head_stride = cache_.max_prompt * model_.head_dim;
  for (int64_t r = share.first; r < share.last; ++r) {
    const int64_t place = (layer * cache_.prompts + prompt_[r]) * model_.kv_heads * head_stride +
                          position_[r] * model_.head_dim;
    key_places_[r] = cache_.keys + place;
    value_places_[r] = cache_.values + place;
  }
  pass.kernels.place_heads(place_call(pass, key_places_.data(), value_places_.data(), head_stride),
                           share.first, share.last);
}

void PromptAttention::attend(const Pass& pass, int64_t layer) {
  const int64_t layer_floats = cache_.prompts * model_.kv_heads * cache_.max_prompt * model_.head_dim;
  AttentionCall call = {};
  call.heads = model_.heads;
  call.kv_heads = model_.kv_heads;
  call.head_dim = model_.head_dim;
  call.max_prompt = cache_.max_prompt;
  call.prefix_key = cache_.keys + layer * layer_floats;
  call.prefix_value = cache_.values + layer * layer_floats;
  attend_blocks(pass, call, layer, blocks_, scratch_[pass.member.rank].get());
}

DecodeAttention::DecodeAttention(const PackedModel& model, const PromptCache& cache, const SuffixPages& pages,
                                 int members)
    : model_(model), cache_(cache), pages_(pages), scratch_(members) {}

void DecodeAttention::begin(const Kernels& kernels, int64_t rows, const int64_t* prompt_index,
                            const int64_t* prompt_len, const int64_t* ancestry, const int64_t* suffix_len) {
  ancestry_ = ancestry;
  suffix_len_ = suffix_len;
  key_places_.resize(rows);
  value_places_.resize(rows);
  blocks_ =
      attention_blocks({rows, model_.heads / model_.kv_heads, prompt_index, prompt_len, suffix_len}, order_);
  const int64_t floats = attention_floats(kernels, call(0), blocks_);
  if (floats <= scratch_floats_) return;
  scratch_floats_ = floats;
  for (Scratch& scratch : scratch_) scratch = new_scratch(floats);
}

AttentionCall DecodeAttention::call(int64_t layer) const {
  const int64_t prompt_floats = cache_.prompts * model_.kv_heads * cache_.max_prompt * model_.head_dim;
  const int64_t page_floats = pages_.slots * model_.kv_heads * pages_.max_suffix * model_.head_dim;
  AttentionCall call = {};
  call.heads = model_.heads;
  call.kv_heads = model_.kv_heads;
  call.head_dim = model_.head_dim;
  call.max_prompt = cache_.max_prompt;
  call.max_suffix = pages_.max_suffix;
  call.prefix_key = cache_.keys + layer * prompt_floats;
  call.prefix_value = cache_.values + layer * prompt_floats;
  call.suffix_key = pages_.keys + layer * page_floats;
  call.suffix_value = pages_.values + layer * page_floats;
  call.ancestry = ancestry_;
  call.suffix_len = suffix_len_;
  return call;
}

void DecodeAttention::place(const Pass& pass, int64_t layer, int64_t rows) {
  const Share share = share_of(pass.member, rows);
  const int64_t head_stride = pages_.max_suffix * model_.head_dim;
  for (int64_t r = share.first; r < share.last; ++r) {
    const int64_t slot = ancestry_[r * pages_.max_suffix + suffix_len_[r]];
    const int64_t place =
        (layer * pages_.slots + slot) * model_.kv_heads * head_stride + suffix_len_[r] * model_.head_dim;
    key_places_[r] = pages_.keys + place;
    value_places_[r] = pages_.values + place;
  }
  pass.kernels.place_heads(place_call(pass, key_places_.data(), value_places_.data(), head_stride),
                           share.first, share.last);
}

void DecodeAttention::attend(const Pass& pass, int64_t layer) {
  attend_blocks(pass, call(layer), layer, blocks_, scratch_[pass.member.rank].get());
}

void DecodeAttention::keep(const int64_t*, int64_t) {
  throw std::logic_error("the rows of a decode pass are all wanted");
}

}  // namespace latent_ext
