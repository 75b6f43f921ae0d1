#include "answers.h"

#include <algorithm>
#include <memory>

#include "nucleus.h"
#include "row_groups.h"

namespace latent_ext {

namespace {

constexpr int64_t kBlockPanels = kVocabularyBlock / kPanelWidth;
static_assert(kVocabularyBlock % kPanelWidth == 0, "a block of the vocabulary is made of whole panels");

// Greedy decoding takes the likeliest token, which is in every nucleus.
bool in_nucleus(const AnswersCall& call) {
  return call.top_p < 1.0 && call.temperature > 0.0f;
}

// What a pass wants to know of rows; see Group.
struct Positions {
  std::vector<int64_t> prompt, slots, suffix_len, keys, positions;
  std::vector<const float*> inputs;
};

// The rows of one group that are still being decoded, in order.
struct Group {
  std::vector<int64_t> row, prompt, slots, suffix_len, keys, token;
  PassBuffers buffers;
  DecodeAttention attention;
  std::vector<const float*> inputs;
  std::vector<int64_t> positions;
  std::vector<TokenChoice> choices;
  std::vector<Scratch>
      logits;  // by member, one block; with top_p < 1 the first holds all, [blocks, rows, block]
  std::vector<float> least_logits;             // [rows], with top_p < 1
  std::vector<NucleusScratch> nucleus;         // by member
  std::vector<std::vector<float>> row_logits;  // by member, [blocks, block] of one row
  std::vector<float> logprob;
  Positions both;

  Group(const AnswersCall& call, Share rows, int members)
      : buffers(*call.generator.model,
                std::min(kPassRows, std::max<int64_t>(1, (call.thought ? 2 : 1) * (rows.last - rows.first)))),
        attention(*call.generator.model, call.generator.prompts, call.pages, members),
        inputs(rows.last - rows.first),
        positions(rows.last - rows.first),
        choices(buffers.max_rows * blocks(call)),
        logits(in_nucleus(call) ? 1 : members),
        least_logits(in_nucleus(call) ? buffers.max_rows : 0),
        nucleus(members),
        row_logits(members) {
    for (int64_t r = rows.first; r < rows.last; ++r) {
      row.push_back(r);
      prompt.push_back(call.generator.prompt_index[r]);
      suffix_len.push_back(call.suffix_len[r]);
      keys.push_back(call.keys[r]);
      token.push_back(call.first_token[r]);
      slots.insert(slots.end(), call.ancestry + r * call.pages.max_suffix,
                   call.ancestry + (r + 1) * call.pages.max_suffix);
    }
    logprob.resize(row.size());
    const int64_t held = in_nucleus(call) ? blocks(call) : 1;
    for (Scratch& of_member : logits) of_member = new_scratch(held * buffers.max_rows * kVocabularyBlock);
  }

  static int64_t blocks(const AnswersCall& call) {
    return (call.generator.model->vocabulary + kVocabularyBlock - 1) / kVocabularyBlock;
  }

  int64_t alive() const { return static_cast<int64_t>(row.size()); }
};

// Reads one position of rows [first, last) of the group; `input` gives their vectors.
template <class Input>
void read(const AnswersCall& call, const Pass& pass, Group& group, int64_t first, int64_t last,
          const Input& input) {
  const int64_t count = last - first;
  if (pass.member.rank == 0) {
    for (int64_t i = first; i < last; ++i) {
      group.inputs[i] = input(i);
      group.positions[i] = call.generator.prompt_len[group.prompt[i]] + group.suffix_len[i];
    }
    group.attention.begin(pass.kernels, count, group.prompt.data() + first, call.generator.prompt_len,
                          group.slots.data() + first * call.pages.max_suffix,
                          group.suffix_len.data() + first);
  }
  pass.member.wait();
  run_pass(pass,
           {count, group.inputs.data() + first, group.positions.data() + first, group.keys.data() + first},
           group.attention);
  if (pass.member.rank == 0) {
    for (int64_t i = first; i < last; ++i) {
      ++group.suffix_len[i];
      // a drawn token is indexed by the position that it will be read at
      ++group.positions[i];
    }
  }
  pass.member.wait();
}

// Reads the last thought and the first token of rows [first, last) in one pass: each row twice, the second
// time one position on, where it sees what the first one has just written. Both are known, so the weights are
// read once.
void read_thought_and_token(const AnswersCall& call, const Pass& pass, Group& group, int64_t first,
                            int64_t last) {
  const int64_t count = last - first, hidden = pass.model.hidden, width = call.pages.max_suffix;
  Positions& both = group.both;
  if (pass.member.rank == 0) {
    both = {};
    for (const int64_t token : {0, 1}) {
      for (int64_t i = first; i < last; ++i) {
        both.prompt.push_back(group.prompt[i]);
        both.suffix_len.push_back(group.suffix_len[i] + token);
        both.keys.push_back(group.keys[i]);
        both.positions.push_back(call.generator.prompt_len[group.prompt[i]] + both.suffix_len.back());
        both.inputs.push_back(token ? call.token_embedding + group.token[i] * hidden
                                    : call.thought + group.row[i] * hidden);
        both.slots.insert(both.slots.end(), group.slots.begin() + i * width,
                          group.slots.begin() + (i + 1) * width);
      }
    }
    group.attention.begin(pass.kernels, 2 * count, both.prompt.data(), call.generator.prompt_len,
                          both.slots.data(), both.suffix_len.data());
  }
  pass.member.wait();
  run_pass(pass, {2 * count, both.inputs.data(), both.positions.data(), both.keys.data()}, group.attention);
  const Share share = share_of(pass.member, count);
  float* normed = group.buffers.normed.get();
  std::copy(normed + (count + share.first) * hidden, normed + (count + share.last) * hidden,
            normed + share.first * hidden);
  if (pass.member.rank == 0) {
    for (int64_t i = 0; i < count; ++i) {
      group.suffix_len[first + i] += 2;
      group.positions[first + i] = both.positions[count + i] + 1;
    }
  }
  pass.member.wait();
}

// Logits of one block of the vocabulary, [count, kVocabularyBlock].
void block_logits(const Pass& pass, int64_t count, int64_t block, float* logits) {
  const PackedLinear& lm_head = pass.model.lm_head;
  const LinearCall linear = {lm_head,
                             encoded(pass, lm_head, pass.buffers.normed.get()),
                             count,
                             Activation::kNone,
                             logits,
                             kVocabularyBlock,
                             block * kVocabularyBlock};
  pass.kernels.linear[static_cast<int>(lm_head.format)](
      linear, block * kBlockPanels, std::min((block + 1) * kBlockPanels, panel_count(lm_head.outputs)));
}

// Which tokens a member's share of rows may draw, from all their logits, [blocks, count, kVocabularyBlock].
void find_nuclei(const AnswersCall& call, const Pass& pass, Group& group, int64_t count,
                 const float* logits) {
  const int64_t blocks = Group::blocks(call);
  const Share rows = share_of(pass.member, count);
  std::vector<float>& row = group.row_logits[pass.member.rank];
  row.resize(blocks * kVocabularyBlock);
  for (int64_t i = rows.first; i < rows.last; ++i) {
    for (int64_t block = 0; block < blocks; ++block) {
      std::copy_n(logits + (block * count + i) * kVocabularyBlock, kVocabularyBlock,
                  row.begin() + block * kVocabularyBlock);
    }
    group.least_logits[i] = nucleus_cutoff(pass.kernels, row.data(), pass.model.vocabulary, call.temperature,
                                           call.top_p, group.nucleus[pass.member.rank]);
  }
}

// The next token of rows [first, last), whose hidden states are in buffers.normed.
void choose(const AnswersCall& call, const Pass& pass, Group& group, int64_t first, int64_t last) {
  const int64_t count = last - first, blocks = Group::blocks(call);
  encode_share(pass, pass.model.lm_head, group.buffers.normed.get(), count);
  pass.member.wait();
  NextTokenCall choice = {};
  choice.hidden_size = pass.model.hidden;
  choice.vocabulary = pass.model.vocabulary;
  choice.draws = {group.keys.data() + first, group.positions.data() + first, call.seed};
  choice.temperature = call.temperature;
  const Share mine = share_of(pass.member, blocks);
  if (in_nucleus(call)) {
    float* all = group.logits[0].get();
    const auto of_block = [&](int64_t block) { return all + block * count * kVocabularyBlock; };
    for (int64_t block = mine.first; block < mine.last; ++block)
      block_logits(pass, count, block, of_block(block));
    pass.member.wait();
    find_nuclei(call, pass, group, count, all);
    pass.member.wait();
    choice.least_logits = group.least_logits.data();
    for (int64_t block = mine.first; block < mine.last; ++block)
      pass.kernels.token_choices(choice, of_block(block), 0, count, block, group.choices.data());
  } else {
    float* logits = group.logits[pass.member.rank].get();
    for (int64_t block = mine.first; block < mine.last; ++block) {
      block_logits(pass, count, block, logits);
      pass.kernels.token_choices(choice, logits, 0, count, block, group.choices.data());
    }
  }
  pass.member.wait();
  const Share rows = share_of(pass.member, count);
  for (int64_t i = rows.first; i < rows.last; ++i) {
    pass.kernels.token_merge(group.choices.data() + i * blocks, blocks, &group.token[first + i],
                             &group.logprob[first + i]);
  }
  pass.member.wait();
}

// Takes the tokens of all rows down; the finished leave.
void record(const AnswersCall& call, Group& group, int64_t emitted) {
  int64_t kept = 0;
  const int64_t width = call.pages.max_suffix;
  for (int64_t i = 0; i < group.alive(); ++i) {
    const int64_t row = group.row[i];
    call.logprobs[row] += group.logprob[i];
    call.suffix_len[row] = group.suffix_len[i];
    if (group.token[i] == call.end_of_sequence) {
      call.finished[row] = true;
      continue;
    }
    call.tokens[row * call.max_tokens + emitted] = group.token[i];
    group.row[kept] = row;
    group.prompt[kept] = group.prompt[i];
    group.suffix_len[kept] = group.suffix_len[i];
    group.keys[kept] = group.keys[i];
    group.token[kept] = group.token[i];
    if (kept != i) std::copy_n(group.slots.begin() + i * width, width, group.slots.begin() + kept * width);
    ++kept;
  }
  group.row.resize(kept);
}

void decode(const AnswersCall& call, Group& group, const Member& member) {
  const Pass pass = {
      *call.generator.model, kernels(), group.buffers, member, {}, call.generator.position_embedding};
  const int64_t hidden = pass.model.hidden;
  for (int64_t emitted = 0; emitted < call.max_tokens && group.alive() > 0; ++emitted) {
    const bool thought = emitted == 0 && call.thought;
    const int64_t alive = group.alive(), batch = thought ? kPassRows / 2 : kPassRows;
    for (int64_t first = 0; first < alive; first += batch) {
      const int64_t last = std::min(alive, first + batch);
      if (thought) {
        read_thought_and_token(call, pass, group, first, last);
      } else {
        read(call, pass, group, first, last,
             [&](int64_t i) { return call.token_embedding + group.token[i] * hidden; });
      }
      choose(call, pass, group, first, last);
    }
    if (member.rank == 0) record(call, group, emitted);
    member.wait();
  }
}

}  // namespace

void run_answers(const AnswersCall& call, int threads) {
  std::fill_n(call.tokens, call.rows * call.max_tokens, int64_t(-1));
  std::fill_n(call.logprobs, call.rows, 0.0f);
  std::fill_n(call.finished, call.rows, false);
  if (call.rows == 0) return;
  const RowGroups groups(call.rows, threads);
  std::vector<std::unique_ptr<Group>> of_rows;
  for (int g = 0; g < groups.count(); ++g) {
    of_rows.push_back(std::make_unique<Group>(call, groups.rows_of(g, call.rows), groups.members()));
  }
  groups.run(
      [&](const Member& team) { decode(call, *of_rows[groups.group_of(team)], groups.member_of(team)); });
}

}  // namespace latent_ext
