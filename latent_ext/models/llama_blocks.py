"""The pieces of a Llama body: RMSNorm, rotary positions, grouped key and value heads, gated MLP."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import LlamaModel, Qwen2Model
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from latent_ext.models.norm import Norm
from latent_ext.ops import sites


class LlamaBlocks:
    """Llama in pieces (Touvron et al. 2023; names of ``transformers.LlamaModel``), and Qwen2, which adds biases.

    Args:
        model: in eval mode; its modules are used as they are, so adapters or quantised linears inside keep
            working.
    """

    # As published (LatentTTS): Llama has no dropout of its own, and one is put behind every down_proj.
    dropout_sites: tuple[int, ...] = (sites.MLP_OUTPUT,)

    def __init__(self, model: LlamaModel | Qwen2Model) -> None:
        config: Any = model.config  # fields that a config fills in are typed as if they might stay None
        self.model = model
        self._layers: Any = list(model.layers)  # nn.ModuleList has no element type
        self.layers = int(config.num_hidden_layers)
        self.hidden_size = int(config.hidden_size)
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        self.head_dim = int(self._layers[0].self_attn.head_dim)
        self.max_positions = int(config.max_position_embeddings)
        # norms[2 * l] is read by layer l's attention, norms[2 * l + 1] by its MLP, the last one is the final norm.
        modules: list[Any] = [
            norm for block in self._layers for norm in (block.input_layernorm, block.post_attention_layernorm)
        ] + [model.norm]
        self.norms = [Norm("rms", norm.weight, None, float(norm.variance_epsilon)) for norm in modules]
        self.scales = [float(block.self_attn.scaling) for block in self._layers]

    def token_embedding(self, tokens: Tensor) -> Tensor:
        """int64 (...) -> (..., hidden): what a token, or a thought in its place, feeds."""
        return self.model.embed_tokens(tokens)

    def embed(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """inputs (rows, hidden), unchanged: positions enter through queries and keys."""
        return inputs

    def query_key_value(self, layer: int, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """normed (rows, hidden), positions int64 (rows,) -> (rows, heads, head_dim), twice (rows, kv_heads, head_dim).

        Queries and keys come rotated by their positions, the two halves of a head paired (Hugging Face's
        convention), with the frequencies and the scaling of the model's own rotary module.
        """
        attention = self._layers[layer].self_attn
        query, key, value = (
            projection(normed).reshape(normed.shape[0], -1, self.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        cosine, sine = self.model.rotary_emb(normed, position_ids=positions.unsqueeze(0))
        query, key = apply_rotary_pos_emb(query, key, cosine[0], sine[0])
        return query, key, value

    def attention_output(self, layer: int, context: Tensor) -> Tensor:
        """context (rows, heads, head_dim) -> (rows, hidden), before the residual."""
        return self._layers[layer].self_attn.o_proj(context.flatten(1))

    def mlp(self, layer: int, normed: Tensor) -> Tensor:
        """normed (rows, hidden) -> (rows, hidden), before dropout and residual."""
        return self._layers[layer].mlp(normed)
