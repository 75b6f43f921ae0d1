// Decoding answers token by token; rows that reach the end of their answer leave the batch.
#pragma once

#include "rollout.h"

namespace latent_ext {

struct AnswersCall {
  RolloutModel generator;
  SuffixPages pages;
  const int64_t* ancestry;       // [rows, max_suffix]
  int64_t* suffix_len;           // [rows], grows by what was read
  const float* token_embedding;  // [tokens of the vocabulary, hidden]
  const float* thought;          // [rows, hidden], read before the first token, or null
  const int64_t* first_token;    // [rows]
  const int64_t* keys;           // [rows]
  int64_t seed;
  float temperature;
  double top_p;  // share of the probability that tokens are drawn from; 1: all of it
  int64_t rows, max_tokens, end_of_sequence;
  int64_t* tokens;  // [rows, max_tokens], -1 past the end
  float* logprobs;  // [rows], of all tokens, the end of sequence included
  bool* finished;   // [rows]
};

void run_answers(const AnswersCall& call, int threads);

}  // namespace latent_ext
