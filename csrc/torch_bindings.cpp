// Every op schema of the namespace latent_ext; implementations register themselves per device (csrc/cpu,
// csrc/cuda).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(latent_ext, m) {
  // residual + dropout(branch), and LayerNorm or RMSNorm of the sum.
  m.def(
      "dropout_add_norm(Tensor branch, Tensor residual, Tensor? weight, Tensor? bias, Tensor keys, "
      "Tensor positions, Tensor seed, int site, float p, float eps, str norm) -> (Tensor, Tensor)");
  // Norm, scale and Gaussian noise of a hidden state, written into the next input and the thoughts.
  m.def(
      "next_thought(Tensor hidden, Tensor? weight, Tensor? bias, Tensor? log_std, Tensor keys, "
      "Tensor positions, Tensor seed, float eps, str norm, float scale, float sigma, bool relative, int "
      "step, "
      "Tensor(a!) next_input, Tensor(b!)? thoughts) -> ()");
  // One new position per row against a shared prompt cache and suffix pages found through the ancestry table.
  m.def(
      "prefix_decode_attention(Tensor query, Tensor key, Tensor value, Tensor prefix_key, Tensor "
      "prefix_value, "
      "Tensor prompt_index, Tensor prompt_len, Tensor(a!) suffix_key, Tensor(b!) suffix_value, Tensor "
      "ancestry, "
      "Tensor suffix_len, float scale) -> Tensor");
  // LatentRM head on every row, cumulative score and the best rows of each question.
  m.def(
      "score_and_prune(Tensor hidden, Tensor weight, Tensor? bias, Tensor cumulative, "
      "Tensor question_offsets, int keep) -> (Tensor, Tensor, Tensor)");
  // Final norm, LM head and argmax or Gumbel-max draw, without storing rows x vocabulary.
  m.def(
      "next_token(Tensor hidden, Tensor? norm_weight, Tensor? norm_bias, Tensor lm_head, Tensor keys, "
      "Tensor positions, Tensor seed, float eps, str norm, float temperature) -> (Tensor, Tensor)");
  // A weight matrix into the panels of a packed model.
  m.def(
      "pack_linear(Tensor weight, str format, Tensor(a!) panels, Tensor(b!)? scales, Tensor(c!)? sums) -> "
      "()");
  // Whole prompts through a packed model: their caches, and the last hidden states.
  m.def(
      "read_prompts(Tensor model, Tensor? position_embedding, Tensor token_embedding, Tensor tokens, "
      "Tensor offsets, Tensor keys, Tensor seed, float p, bool per_trajectory, bool embedding, "
      "float svp, bool last_hidden, Tensor(a!) prefix_key, Tensor(b!) prefix_value) -> Tensor");
  // The whole latent phase: steps x layers x rows, with noise, LatentRM, pruning and branching inside.
  m.def(
      "latent_rollout(Tensor model, Tensor? position_embedding, Tensor first, bool first_is_hidden, "
      "Tensor keys, Tensor seed, Tensor prompt_index, Tensor prompt_len, Tensor prefix_key, "
      "Tensor prefix_value, Tensor(a!) suffix_key, Tensor(b!) suffix_value, Tensor(c!) ancestry, "
      "int suffix_len, Tensor? reward_model, Tensor? reward_position_embedding, Tensor? reward_prompt_index, "
      "Tensor? reward_prompt_len, Tensor? reward_prefix_key, Tensor? reward_prefix_value, float p, "
      "bool per_trajectory, bool embedding, float svp, float sigma, bool relative, int questions, int[] "
      "keep, "
      "int candidates, Tensor(d!) thoughts, Tensor(e!)? step_scores, Tensor(f!) lineage, "
      "Tensor(g!) final_keys, Tensor(h!) final_prompts, Tensor? model_header, Tensor? reward_header, str "
      "rung) "
      "-> ()");
  // Answers token by token from where the rows stand; finished rows leave the batch.
  m.def(
      "decode_answers(Tensor model, Tensor? position_embedding, Tensor token_embedding, Tensor? thought, "
      "Tensor first_token, Tensor keys, Tensor seed, Tensor prompt_index, Tensor prompt_len, "
      "Tensor prefix_key, Tensor prefix_value, Tensor(a!) suffix_key, Tensor(b!) suffix_value, "
      "Tensor ancestry, Tensor(c!) suffix_len, float temperature, float top_p, int max_tokens, int "
      "end_of_sequence) -> "
      "(Tensor, Tensor, Tensor)");
}
