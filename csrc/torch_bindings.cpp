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
}
