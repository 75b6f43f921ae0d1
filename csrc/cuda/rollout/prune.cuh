// Tables of the rows: at the start, at pruning and branching, and at the end. Pruning moves no cache: a row's
// past is a list of slots, and row r always writes to slot r.
#pragma once

#include "arguments.cuh"
#include "latent_ext/philox.h"
#include "latent_ext/topk_order.h"

namespace latent_ext {

// Row `row` of the first table. Indices come from the device and cannot be refused by the host without
// waiting for it: a row whose prompt, positions or slots make no sense gets prompt -1, and NaN for its hidden
// states.
__device__ void begin_tables(const RolloutArguments& a, int64_t row) {
  const RowTable& table = a.table[0];
  const int64_t steps = a.program.steps;
  for (int64_t s = threadIdx.x; s < steps; s += kRolloutThreads) {
    table.lineage[row * steps + s] = row;
    if (a.program.reward()) table.slots[kReward][row * steps + s] = row;
  }
  const int64_t max_suffix = a.body[kGenerator].max_suffix;
  for (int64_t s = threadIdx.x; s < max_suffix; s += kRolloutThreads)
    table.slots[kGenerator][row * max_suffix + s] =
        s < a.program.suffix_len ? a.ancestry[row * max_suffix + s] : row;
  if (threadIdx.x != 0) return;
  table.keys[row] = a.keys[row];
  table.total[row] = 0.0f;
  for (int b = 0; b < (a.program.reward() ? 2 : 1); ++b) {
    const RolloutBody& body = a.body[b];
    const int64_t prompt = body.prompt_index[row];
    bool known = prompt >= 0 && prompt < body.prompts;
    if (known) {
      const int64_t length = body.prompt_len[prompt];
      const int64_t read = b == kReward ? steps : a.program.suffix_len + steps - a.program.first_is_hidden;
      known = length >= 0 && length <= body.max_prompt && length + read <= body.positions;
    }
    for (int64_t s = 0; b == kGenerator && s < a.program.suffix_len; ++s) {
      const int64_t slot = a.ancestry[row * max_suffix + s];
      known = known && slot >= 0 && slot < body.slots;
    }
    table.prompt[b][row] = known ? prompt : -1;
  }
}

// One question, by one block.
__device__ void prune_question(const RolloutArguments& a, const Phase& phase, int64_t question) {
  const RowTable& old = a.table[phase.table];
  const RowTable& now = a.table[phase.table ^ 1];
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  const int64_t width = phase.rows / a.program.questions, begin = question * width, end = begin + width;
  const int64_t keep = kept_rows(a.program, phase);
  const int candidates = children(a.program, phase);
  for (int64_t row = begin + warp; row < end; row += kRolloutWarps) {
    const float total = old.total[row];
    int64_t rank = 0;
    for (int64_t base = begin; base < end; base += kWarpThreads) {
      const int64_t other = base + lane;
      const bool better = other < end && ranks_before(old.total[other], other, total, row);
      rank += __popc(__ballot_sync(kWholeWarp, better));
    }
    if (lane == 0) a.kept[row] = rank < keep;
  }
  __syncthreads();

  const int64_t steps = a.program.steps, max_suffix = a.body[kGenerator].max_suffix;
  for (int64_t row = begin + warp; row < end; row += kRolloutWarps) {
    if (a.kept[row] == 0) continue;
    int64_t before = 0;
    for (int64_t base = begin; base < row; base += kWarpThreads) {
      const int64_t other = base + lane;
      before += __popc(__ballot_sync(kWholeWarp, other < row && a.kept[other] != 0));
    }
    for (int c = 0; c < candidates; ++c) {
      const int64_t child = (question * keep + before) * candidates + c;
      if (lane == 0) {
        const uint64_t key = static_cast<uint64_t>(old.keys[row]);
        now.keys[child] =
            static_cast<int64_t>(c == 0 ? key : derive_key(key, phase.step + 1, c, KeyTag::kBeam));
        now.total[child] = old.total[row];
        a.parent[child] = row;
        for (int b = 0; b < 2; ++b) now.prompt[b][child] = old.prompt[b][row];
      }
      for (int64_t s = lane; s < max_suffix; s += kWarpThreads)
        now.slots[kGenerator][child * max_suffix + s] =
            s < phase.suffix ? old.slots[kGenerator][row * max_suffix + s] : child;
      for (int64_t s = lane; s < steps; s += kWarpThreads) {
        now.slots[kReward][child * steps + s] = s <= phase.step ? old.slots[kReward][row * steps + s] : child;
        now.lineage[child * steps + s] = s <= phase.step ? old.lineage[row * steps + s] : child;
      }
    }
  }
}

// The results of one row at the end.
__device__ void finish_row(const RolloutArguments& a, const Phase& phase, int64_t row) {
  const RowTable& table = a.table[phase.table];
  const int64_t steps = a.program.steps, hidden = a.body[kGenerator].hidden,
                max_suffix = a.body[kGenerator].max_suffix;
  for (int64_t s = threadIdx.x; s < max_suffix; s += kRolloutThreads)
    a.final_slots[row * max_suffix + s] = table.slots[kGenerator][row * max_suffix + s];
  for (int64_t s = threadIdx.x; s < steps; s += kRolloutThreads) {
    const int64_t by = table.lineage[row * steps + s];
    a.lineage[row * steps + s] = by;
    if (a.program.pruned) a.step_scores[row * steps + s] = a.score_store[by * steps + s];
  }
  if (threadIdx.x == 0) {
    a.final_keys[row] = table.keys[row];
    a.final_prompts[row] = table.prompt[kGenerator][row];
  }
  if (!a.program.pruned) return;
  for (int64_t i = threadIdx.x; i < steps * hidden; i += kRolloutThreads) {
    const int64_t by = table.lineage[row * steps + i / hidden];
    a.thoughts[row * steps * hidden + i] = a.thought_store[by * steps * hidden + i];
  }
}

}  // namespace latent_ext
