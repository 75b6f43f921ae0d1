// Rows that share a prompt, in blocks that are attended together.
#pragma once

#include <vector>

#include "kernels.h"

namespace latent_ext {

struct AttentionRows {
  int64_t rows, group;          // group: query heads per kv head
  const int64_t* prompt_index;  // [rows]
  const int64_t* prompt_len;    // [prompts]
  const int64_t* suffix_len;    // [rows]
};

// Rows in order of their prompt, cut into blocks that point into `order`; kv_head is left at 0.
std::vector<AttentionBlock> attention_blocks(const AttentionRows& rows, std::vector<int64_t>& order);

// Floats of scratch that the largest block wants.
int64_t attention_floats(const Kernels& active, const AttentionCall& call,
                         const std::vector<AttentionBlock>& blocks);

}  // namespace latent_ext
