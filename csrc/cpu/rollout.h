// The latent phase of many trajectories: T thoughts of every row, scored by a LatentRM in lock-step, pruned
// and branched between steps. See rollout.cpp for the order of things.
#pragma once

#include <vector>

#include "pass_attention.h"

namespace latent_ext {

// One model, and the prompts that its rows stand behind.
struct RolloutModel {
  const PackedModel* model;
  const float* position_embedding;  // [max_positions, hidden] or null
  PromptCache prompts;
  const int64_t* prompt_len;    // [prompts]
  const int64_t* prompt_index;  // [rows]
};

struct RolloutCall {
  RolloutModel generator;
  SuffixPages pages;           // of the generator; slot r is written by row r
  int64_t read;                // suffix positions that every row has already
  const RolloutModel* reward;  // or null
  const float* first;          // [rows, hidden]: what yields the first thought
  bool first_is_hidden;        // a final-norm hidden state, else an input vector that is still to be read
  int64_t rows;                // at the start: the same number for each question
  int64_t questions;
  int64_t capacity;  // most rows that there may be after branching
  int64_t steps;
  int64_t seed;
  PassDraws draws;
  float sigma;
  bool relative;
  std::vector<int64_t>
      keep;             // rows that each question keeps after each step, 0 for all; empty for none pruned
  int64_t candidates;   // rows that each kept one becomes for the next step
  const int64_t* keys;  // [rows]
  // Results; of rows past the last one nothing is said.
  float* thoughts;         // [capacity, steps, hidden]
  float* step_scores;      // [capacity, steps] or null
  int64_t* lineage;        // [capacity, steps]: the row that was this trajectory at each step
  int64_t* final_keys;     // [capacity]
  int64_t* ancestry;       // [capacity, pages.max_suffix]
  int64_t* final_prompts;  // [capacity], prompt_index of the generator
};

// The number of rows at the end; the same for each question.
int64_t run_rollout(const RolloutCall& call, int threads);

}  // namespace latent_ext
