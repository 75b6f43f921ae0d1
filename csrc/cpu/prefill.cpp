// Prompts follow each other as one list of tokens without padding, read some hundred tokens at a time: a
// prompt may be cut anywhere, as its earlier positions are in the cache by then. With many prompts each
// thread reads its own. The last layer continues with the last tokens alone.
#include "prefill.h"

#include <algorithm>
#include <cstring>

#include "row_groups.h"

namespace latent_ext {

namespace {

// Tokens that pass through the layers together.
constexpr int64_t kPromptTokens = 256;

// Tokens [first, last) by one group.
void read_tokens(const PrefillCall& call, PassBuffers& buffers, const Member& member, int64_t first_prompt,
                 int64_t first, int64_t last, PassAttention*& shared) {
  const Pass pass = {*call.model, kernels(), buffers, member, call.draws, call.position_embedding};
  const int64_t hidden = call.model->hidden;
  std::vector<int64_t> prompt, position, keys, wanted, wanted_prompt;
  std::vector<const float*> inputs;
  int64_t p = first_prompt;
  for (int64_t token = first; token < last; ++token) {
    while (call.offsets[p + 1] <= token) ++p;
    if (call.last_hidden && token + 1 == call.offsets[p + 1]) {
      wanted.push_back(token - first);
      wanted_prompt.push_back(p);
    }
    prompt.push_back(p);
    position.push_back(token - call.offsets[p]);
    keys.push_back(call.keys[p]);
    inputs.push_back(call.token_embedding + call.tokens[token] * hidden);
  }
  const std::vector<int64_t> positions = position;
  std::unique_ptr<PromptAttention> attention;
  if (member.rank == 0) {
    attention = std::make_unique<PromptAttention>(pass, call.cache, std::move(prompt), std::move(position));
    shared = attention.get();
  }
  member.wait();
  // an address that is not null even where no row is wanted
  static const int64_t none = 0;
  run_pass(pass, {last - first, inputs.data(), positions.data(), keys.data()}, *shared,
           {wanted.empty() ? &none : wanted.data(), static_cast<int64_t>(wanted.size())});
  const Share share = share_of(member, static_cast<int64_t>(wanted.size()));
  for (int64_t i = share.first; i < share.last; ++i) {
    std::memcpy(call.last_hidden + wanted_prompt[i] * hidden, buffers.normed.get() + i * hidden,
                hidden * sizeof(float));
  }
  member.wait();
}

}  // namespace

void run_prefill(const PrefillCall& call, int threads) {
  const int64_t prompts = call.cache.prompts, tokens = call.offsets[prompts];
  const RowGroups groups(prompts, threads);
  std::vector<std::unique_ptr<PassBuffers>> buffers;
  std::vector<PassAttention*> shared(groups.count());
  for (int g = 0; g < groups.count(); ++g) {
    buffers.push_back(std::make_unique<PassBuffers>(*call.model, std::min(kPromptTokens, tokens)));
  }
  groups.run([&](const Member& team) {
    const int g = groups.group_of(team);
    const Share mine = groups.rows_of(g, prompts);
    int64_t prompt = mine.first;
    for (int64_t first = call.offsets[mine.first]; first < call.offsets[mine.last]; first += kPromptTokens) {
      while (call.offsets[prompt + 1] <= first) ++prompt;
      read_tokens(call, *buffers[g], groups.member_of(team), prompt, first,
                  std::min(first + kPromptTokens, call.offsets[mine.last]), shared[g]);
    }
  });
}

}  // namespace latent_ext
