// The table of one ISA level.
#include "kernels.h"

LATENT_EXT_NAMESPACE_BEGIN

void fill_kernels(Kernels& table) {
  add_draw_kernels(table);
  add_dropout_add_norm_kernel(table);
  add_next_thought_kernel(table);
  add_attention_kernels(table);
  add_score_kernel(table);
  add_next_token_kernels(table);
  add_linear_kernels(table);
  add_place_heads_kernel(table);
  add_spectrum_kernel(table);
  add_peak_kernel(table);
}

LATENT_EXT_NAMESPACE_END
