"""The pieces of a GPT-2 body: LayerNorm, a position table, one projection for queries, keys and values."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GPT2Model

from latent_ext.models.norm import Norm
from latent_ext.ops import sites


class GPT2Blocks:
    """GPT-2 in pieces (Radford et al. 2019; names of ``transformers.GPT2Model``).

    Args:
        model: in eval mode; its modules are used as they are, so adapters or quantised linears inside keep
            working.
    """

    # As published (LatentTTS): the block's own resid_dropout and MLP dropout.
    dropout_sites: tuple[int, ...] = (sites.ATTENTION_OUTPUT, sites.MLP_OUTPUT)

    def __init__(self, model: GPT2Model) -> None:
        config = model.config
        self.model = model
        self.layers = int(config.n_layer)
        self.hidden_size = int(config.n_embd)
        self.heads = self.kv_heads = int(config.n_head)
        self.head_dim = self.hidden_size // self.heads
        self.max_positions = int(config.n_positions)
        # norms[2 * l] is read by layer l's attention, norms[2 * l + 1] by its MLP, the last one is ln_f.
        self._layers: Any = model.h  # nn.ModuleList has no element type
        modules: list[Any] = [norm for block in self._layers for norm in (block.ln_1, block.ln_2)] + [
            model.ln_f
        ]
        self.norms = [Norm("layer", norm.weight, norm.bias, float(norm.eps)) for norm in modules]
        base = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        by_layer = config.scale_attn_by_inverse_layer_idx
        self.scales = [base / (layer + 1) if by_layer else base for layer in range(self.layers)]

    def token_embedding(self, tokens: Tensor) -> Tensor:
        """int64 (...) -> (..., hidden): what a token, or a thought in its place, feeds before positions."""
        return self.model.wte(tokens)

    def embed(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """inputs (rows, hidden), positions int64 (rows,) -> (rows, hidden)."""
        return inputs + self.model.wpe(positions)

    def query_key_value(self, layer: int, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """normed (rows, hidden) -> three (rows, heads, head_dim); GPT-2 does not rotate by positions."""
        projected = self._layers[layer].attn.c_attn(normed)
        shape = (normed.shape[0], self.heads, self.head_dim)
        query, key, value = (part.reshape(shape) for part in projected.split(self.hidden_size, dim=1))
        return query, key, value

    def attention_output(self, layer: int, context: Tensor) -> Tensor:
        """context (rows, heads, head_dim) -> (rows, hidden), before dropout and residual."""
        return self._layers[layer].attn.c_proj(context.reshape(context.shape[0], self.hidden_size))

    def mlp(self, layer: int, normed: Tensor) -> Tensor:
        """normed (rows, hidden) -> (rows, hidden), before dropout and residual."""
        mlp = self._layers[layer].mlp
        return mlp.c_proj(mlp.act(mlp.c_fc(normed)))
