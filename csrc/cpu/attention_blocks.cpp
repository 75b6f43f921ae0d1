#include "attention_blocks.h"

#include <algorithm>
#include <numeric>

namespace latent_ext {

namespace {

// Query vectors that share a pass over a prompt; fewer where their scores would leave the L2 cache.
constexpr int64_t kBlockQueries = 64;
constexpr int64_t kLongPrompt = 1024;
constexpr int64_t kLongPromptQueries = 16;

}  // namespace

std::vector<AttentionBlock> attention_blocks(const AttentionRows& of, std::vector<int64_t>& order) {
  order.resize(of.rows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return of.prompt_index[a] < of.prompt_index[b]; });
  std::vector<AttentionBlock> blocks;
  for (int64_t first = 0; first < of.rows;) {
    const int64_t prompt = of.prompt_index[order[first]];
    const int64_t queries = of.prompt_len[prompt] > kLongPrompt ? kLongPromptQueries : kBlockQueries;
    const int64_t limit = std::max<int64_t>(1, queries / of.group);
    int64_t last = first, positions = 0;
    while (last < of.rows && last - first < limit && of.prompt_index[order[last]] == prompt) {
      positions = std::max(positions, of.suffix_len[order[last]] + 1);
      ++last;
    }
    blocks.push_back({order.data() + first, last - first, prompt, of.prompt_len[prompt], 0, positions});
    first = last;
  }
  return blocks;
}

int64_t attention_floats(const Kernels& active, const AttentionCall& call,
                         const std::vector<AttentionBlock>& blocks) {
  int64_t floats = 0;
  for (const AttentionBlock& block : blocks) {
    floats = std::max(
        floats, active.attention_scratch(call, block.row_count, block.prompt_len, block.suffix_positions));
  }
  return floats;
}

}  // namespace latent_ext
