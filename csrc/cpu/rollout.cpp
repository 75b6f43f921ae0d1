// Rows are independent between prunings. So where there are enough of them, each thread takes its own rows
// through all steps and waits for the others only where rows are pruned; with few rows all threads work on
// all of them and share the panels of every layer.
//
// Pruning moves no cache: a row's past is a list of slots (its ancestry), and row r always writes to slot r,
// so what an ancestor wrote stays where it is.
#include "rollout.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "latent_ext/philox.h"
#include "latent_ext/topk_order.h"
#include "row_groups.h"

namespace latent_ext {

namespace {

// What all rows know; changed by one thread while the others wait.
struct Trajectories {
  int64_t count;
  std::vector<int64_t> keys, question, prompt, reward_prompt;
  std::vector<int64_t> slots, reward_slots;  // [rows, max_suffix], [rows, steps]
  std::vector<int64_t> lineage;              // [rows, steps]
  std::vector<int64_t> suffix_len, reward_len;
  std::vector<float> total;

  Trajectories(const RolloutCall& call)
      : count(call.rows),
        keys(call.keys, call.keys + call.rows),
        question(call.rows),
        prompt(call.generator.prompt_index, call.generator.prompt_index + call.rows),
        slots(call.capacity * call.pages.max_suffix),
        reward_slots(call.capacity * call.steps),
        lineage(call.capacity * call.steps),
        suffix_len(call.capacity, call.read),
        reward_len(call.capacity, 0),
        total(call.capacity, 0.0f) {
    if (call.reward) reward_prompt.assign(call.reward->prompt_index, call.reward->prompt_index + call.rows);
    const int64_t width = call.rows / call.questions;
    for (int64_t r = 0; r < call.rows; ++r) {
      question[r] = r / width;
      std::copy_n(call.ancestry + r * call.pages.max_suffix, call.read,
                  slots.begin() + r * call.pages.max_suffix);
    }
    keys.resize(call.capacity);
    question.resize(call.capacity);
    prompt.resize(call.capacity);
    reward_prompt.resize(call.capacity);
    own_future(call, 0);
  }

  // Row r writes to slot r from now on.
  void own_future(const RolloutCall& call, int64_t step) {
    for (int64_t r = 0; r < count; ++r) {
      const auto fill = [r](std::vector<int64_t>& table, int64_t width, int64_t from) {
        std::fill(table.begin() + r * width + from, table.begin() + (r + 1) * width, r);
      };
      fill(slots, call.pages.max_suffix, suffix_len[r]);
      fill(reward_slots, call.steps, step);
      fill(lineage, call.steps, step);
    }
  }
};

template <class T>
void select_rows(std::vector<T>& table, const std::vector<int64_t>& parents, int64_t width) {
  std::vector<T> selected(parents.size() * width);
  for (size_t i = 0; i < parents.size(); ++i) {
    std::copy_n(table.begin() + parents[i] * width, width, selected.begin() + i * width);
  }
  std::copy(selected.begin(), selected.end(), table.begin());
}

// The rows that each question keeps, best totals, in their old order.
std::vector<int64_t> best_of_each_question(const Trajectories& rows, int64_t questions, int64_t keep) {
  std::vector<int64_t> kept;
  int64_t first = 0;
  for (int64_t b = 0; b < questions; ++b) {
    int64_t last = first;
    while (last < rows.count && rows.question[last] == b) ++last;
    std::vector<int64_t> order;
    for (int64_t r = first; r < last; ++r) order.push_back(r);
    const int64_t count = std::min(keep, last - first);
    std::partial_sort(order.begin(), order.begin() + count, order.end(),
                      [&](int64_t a, int64_t c) { return ranks_before(rows.total[a], a, rows.total[c], c); });
    std::sort(order.begin(), order.begin() + count);
    kept.insert(kept.end(), order.begin(), order.begin() + count);
    first = last;
  }
  return kept;
}

// After `step` thoughts (1, 2, ...): prunes, and branches if there is a next step.
void prune(const RolloutCall& call, int64_t step, Trajectories& rows) {
  const int64_t keep = call.keep.empty() ? 0 : call.keep[step - 1];
  const int64_t candidates = step < call.steps ? call.candidates : 1;
  if (keep == 0) return;
  const std::vector<int64_t> kept = best_of_each_question(rows, call.questions, keep);
  std::vector<int64_t> parents;
  std::vector<int64_t> keys;
  for (const int64_t r : kept) {
    for (int64_t c = 0; c < candidates; ++c) {
      parents.push_back(r);
      keys.push_back(c == 0 ? rows.keys[r]
                            : static_cast<int64_t>(derive_key(static_cast<uint64_t>(rows.keys[r]),
                                                              static_cast<uint32_t>(step),
                                                              static_cast<uint32_t>(c), KeyTag::kBeam)));
    }
  }
  select_rows(rows.question, parents, 1);
  select_rows(rows.prompt, parents, 1);
  select_rows(rows.reward_prompt, parents, 1);
  select_rows(rows.slots, parents, call.pages.max_suffix);
  select_rows(rows.reward_slots, parents, call.steps);
  select_rows(rows.lineage, parents, call.steps);
  select_rows(rows.suffix_len, parents, 1);
  select_rows(rows.reward_len, parents, 1);
  select_rows(rows.total, parents, 1);
  std::copy(keys.begin(), keys.end(), rows.keys.begin());
  rows.count = static_cast<int64_t>(parents.size());
  rows.own_future(call, step);
}

// The LatentRM's own pages: nothing of them is needed after the rollout.
struct RewardPages {
  Scratch keys, values;
  SuffixPages pages;

  RewardPages(const RolloutCall& call) : pages{} {
    if (!call.reward) return;
    const PackedModel& model = *call.reward->model;
    const int64_t floats = static_cast<int64_t>(model.layers.size()) * call.capacity * model.kv_heads *
                           call.steps * model.head_dim;
    keys = new_scratch(floats);
    values = new_scratch(floats);
    pages = {keys.get(), values.get(), call.capacity, call.steps};
  }
};

// What a group of threads works with.
struct Group {
  PassBuffers buffers;
  std::unique_ptr<PassBuffers> reward_buffers;
  DecodeAttention attention;
  std::unique_ptr<DecodeAttention> reward_attention;
  std::vector<const float*> inputs;
  std::vector<int64_t> positions;
  Scratch next_input;  // the op's contract asks for one; the thoughts themselves are read

  Group(const RolloutCall& call, const RewardPages& reward, int64_t max_rows, int members)
      : buffers(*call.generator.model, max_rows),
        attention(*call.generator.model, call.generator.prompts, call.pages, members),
        inputs(max_rows),
        positions(max_rows),
        next_input(new_scratch(max_rows * call.generator.model->hidden)) {
    if (!call.reward) return;
    reward_buffers = std::make_unique<PassBuffers>(*call.reward->model, max_rows);
    reward_attention =
        std::make_unique<DecodeAttention>(*call.reward->model, call.reward->prompts, reward.pages, members);
  }
};

class Rollout {
 public:
  Rollout(const RolloutCall& call, const RowGroups& groups)
      : call_(call), kernels_(kernels()), rows_(call), reward_pages_(call) {
    for (int g = 0; g < groups.count(); ++g) {
      const int64_t most = std::min(kPassRows, groups.most_rows(call.capacity));
      groups_.push_back(std::make_unique<Group>(call, reward_pages_, most, groups.members()));
    }
  }

  // What one thread does.
  void run(const RowGroups& groups, const Member& team) {
    const int g = groups.group_of(team);
    const Member member = groups.member_of(team);
    for (int64_t t = 0; t < call_.steps; ++t) {
      const Share mine = groups.rows_of(g, rows_.count);
      for (int64_t first = mine.first; first < mine.last; first += kPassRows) {
        step(*groups_[g], member, t, first, std::min(mine.last, first + kPassRows));
      }
      if (call_.keep.empty() || call_.keep[t] == 0) continue;
      team.wait();
      if (team.rank == 0) prune(call_, t + 1, rows_);
      team.wait();
    }
  }

  int64_t finish();

 private:
  // Thought t (0, 1, ...) of rows [first, last), and its score.
  void step(Group& group, const Member& member, int64_t t, int64_t first, int64_t last) {
    const int64_t count = last - first;
    const Pass pass = {*call_.generator.model,
                       kernels_,
                       group.buffers,
                       member,
                       call_.draws,
                       call_.generator.position_embedding};
    const int64_t hidden = pass.model.hidden;
    if (t == 0 && call_.first_is_hidden) {
      const Share share = share_of(member, count);
      std::memcpy(group.buffers.normed.get() + share.first * hidden,
                  call_.first + (first + share.first) * hidden,
                  (share.last - share.first) * hidden * sizeof(float));
      member.wait();
    } else {
      const auto input = [&](int64_t r) { return t == 0 ? call_.first + r * hidden : thought(r, t - 1); };
      read(group, pass, group.attention, input, call_.generator.prompt_len, rows_.prompt, rows_.slots,
           call_.pages.max_suffix, rows_.suffix_len, first, count);
    }
    form_thoughts(group, pass, t, first, count);
    if (call_.reward) score(group, member, t, first, count);
  }

  float* thought(int64_t row, int64_t t) const {
    return call_.thoughts +
           (rows_.lineage[row * call_.steps + t] * call_.steps + t) * call_.generator.model->hidden;
  }

  // One pass over `count` rows; their suffixes grow by one.
  template <class Input>
  void read(Group& group, const Pass& pass, DecodeAttention& attention, const Input& input,
            const int64_t* prompt_len, const std::vector<int64_t>& prompt, const std::vector<int64_t>& slots,
            int64_t max_suffix, std::vector<int64_t>& suffix_len, int64_t first, int64_t count) {
    if (pass.member.rank == 0) {
      for (int64_t i = 0; i < count; ++i) {
        group.inputs[i] = input(first + i);
        group.positions[i] = prompt_len[prompt[first + i]] + suffix_len[first + i];
      }
      attention.begin(kernels_, count, prompt.data() + first, prompt_len, slots.data() + first * max_suffix,
                      suffix_len.data() + first);
    }
    pass.member.wait();
    run_pass(pass, {count, group.inputs.data(), group.positions.data(), rows_.keys.data() + first},
             attention);
    if (pass.member.rank == 0) {
      for (int64_t i = 0; i < count; ++i) ++suffix_len[first + i];
    }
    pass.member.wait();
  }

  // From the hidden states in buffers.normed, through the thought head, to thoughts with noise.
  void form_thoughts(Group& group, const Pass& pass, int64_t t, int64_t first, int64_t count) {
    const PackedModel& model = pass.model;
    float* x = group.buffers.normed.get();
    for (size_t s = 0; s < model.stages.size(); ++s) {
      const PackedStage& stage = model.stages[s];
      float* to = group.buffers.stage[s % 2].get();
      if (stage.linear.outputs > 0) {
        run_linear(pass, stage.linear, x, count, stage.activation, to);
      } else {
        const DropoutAddNormCall call = {false,
                                         stage.size,
                                         x,
                                         group.buffers.zeros.get(),
                                         stage.norm.weight,
                                         stage.norm.bias,
                                         {},
                                         0,
                                         0.0,
                                         stage.norm.eps,
                                         stage.norm.kind,
                                         x,
                                         to};
        const Share share = share_of(pass.member, count);
        kernels_.dropout_add_norm(call, share.first, share.last);
        pass.member.wait();
      }
      x = to;
    }
    const Share share = share_of(pass.member, count);
    for (int64_t i = share.first; i < share.last; ++i) {
      const int64_t row = first + i;
      group.positions[i] = call_.generator.prompt_len[rows_.prompt[row]] + rows_.suffix_len[row];
    }
    const NextThoughtCall call = {false,
                                  model.hidden,
                                  x,
                                  model.thought_norm.weight,
                                  model.thought_norm.bias,
                                  nullptr,
                                  {rows_.keys.data() + first, group.positions.data(), call_.seed},
                                  model.thought_norm.eps,
                                  model.thought_norm.kind,
                                  model.thought_scale,
                                  call_.sigma,
                                  call_.relative,
                                  group.next_input.get(),
                                  call_.thoughts + (first * call_.steps + t) * model.hidden,
                                  call_.steps * model.hidden};
    kernels_.next_thought(call, share.first, share.last);
    pass.member.wait();
  }

  void score(Group& group, const Member& member, int64_t t, int64_t first, int64_t count) {
    const RolloutModel& reward = *call_.reward;
    const Pass pass = {*reward.model, kernels_, *group.reward_buffers, member, {}, reward.position_embedding};
    const auto input = [&](int64_t r) -> const float* { return thought(r, t); };
    read(group, pass, *group.reward_attention, input, reward.prompt_len, rows_.reward_prompt,
         rows_.reward_slots, call_.steps, rows_.reward_len, first, count);
    const Share share = share_of(member, count);
    std::vector<float> scores(count);
    const ScoreCall call = {false,
                            reward.model->hidden,
                            group.reward_buffers->normed.get(),
                            reward.model->score_weight,
                            reward.model->score_bias,
                            rows_.total.data() + first,
                            scores.data(),
                            rows_.total.data() + first};
    kernels_.score(call, share.first, share.last);
    for (int64_t i = share.first; i < share.last; ++i) {
      call_.step_scores[(first + i) * call_.steps + t] = scores[i];
    }
    member.wait();
  }

  const RolloutCall& call_;
  const Kernels& kernels_;
  Trajectories rows_;
  RewardPages reward_pages_;
  std::vector<std::unique_ptr<Group>> groups_;
};

// Each surviving row's thoughts and scores, from where its ancestors left them.
int64_t Rollout::finish() {
  const int64_t hidden = call_.generator.model->hidden, steps = call_.steps, count = rows_.count;
  const bool pruned = std::any_of(call_.keep.begin(), call_.keep.end(), [](int64_t k) { return k != 0; });
  if (pruned) {
    std::vector<float> thoughts(count * steps * hidden), scores(count * steps);
    for (int64_t i = 0; i < count * steps; ++i) {
      const int64_t from = rows_.lineage[i] * steps + i % steps;
      std::copy_n(call_.thoughts + from * hidden, hidden, thoughts.begin() + i * hidden);
      if (call_.step_scores) scores[i] = call_.step_scores[from];
    }
    std::copy(thoughts.begin(), thoughts.end(), call_.thoughts);
    if (call_.step_scores) std::copy(scores.begin(), scores.end(), call_.step_scores);
  }
  std::copy_n(rows_.lineage.begin(), count * steps, call_.lineage);
  std::copy_n(rows_.keys.begin(), count, call_.final_keys);
  std::copy_n(rows_.slots.begin(), count * call_.pages.max_suffix, call_.ancestry);
  std::copy_n(rows_.prompt.begin(), count, call_.final_prompts);
  return count;
}

}  // namespace

int64_t run_rollout(const RolloutCall& call, int threads) {
  const RowGroups groups(call.rows, threads);
  Rollout rollout(call, groups);
  groups.run([&](const Member& team) { rollout.run(groups, team); });
  return rollout.finish();
}

}  // namespace latent_ext
