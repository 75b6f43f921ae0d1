"""The pieces of a pre-norm transformer body, and which class takes which body apart.

Pre-norm transformers differ only in these pieces, so an engine written over them serves every such body.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from transformers import GPT2Model, LlamaModel, PreTrainedModel, Qwen2Model

from latent_ext.models.gpt2_blocks import GPT2Blocks
from latent_ext.models.llama_blocks import LlamaBlocks
from latent_ext.models.norm import Norm


class Blocks(Protocol):
    """A body in pieces.

    Attributes:
        layers: number of blocks.
        hidden_size: width of a thought.
        heads, kv_heads: of queries, and of keys and values; ``kv_heads`` divides ``heads``.
        head_dim: width of one head; ``heads * head_dim`` need not be ``hidden_size``.
        max_positions: positions that the body was made for.
        norms: ``norms[2 * l]`` is read by layer l's attention, ``norms[2 * l + 1]`` by its MLP, the last one is
            the final norm.
        scales: per layer, the factor on query times key.
        dropout_sites: kinds of `latent_ext.ops.sites` at which sites="residual" drops.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    norms: list[Norm]
    scales: list[float]
    dropout_sites: tuple[int, ...]

    def token_embedding(self, tokens: Tensor) -> Tensor:
        """int64 (...) -> (..., hidden): what a token, or a thought in its place, feeds before positions."""

    def embed(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """inputs (rows, hidden), positions int64 (rows,) -> (rows, hidden), what the first block reads."""

    def query_key_value(self, layer: int, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """normed (rows, hidden), positions int64 (rows,) -> (rows, heads, head_dim), twice (rows, kv_heads, head_dim)."""

    def attention_output(self, layer: int, context: Tensor) -> Tensor:
        """context (rows, heads, head_dim) -> (rows, hidden), before dropout and residual."""

    def mlp(self, layer: int, normed: Tensor) -> Tensor:
        """normed (rows, hidden) -> (rows, hidden), before dropout and residual."""


def blocks_of(body: PreTrainedModel) -> Blocks:
    """The pieces of `body`, a ``GPT2Model``, ``LlamaModel`` or ``Qwen2Model`` in eval mode.

    Raises:
        TypeError: for another body.
    """
    if isinstance(body, GPT2Model):
        return GPT2Blocks(body)
    if isinstance(body, (LlamaModel, Qwen2Model)):
        return LlamaBlocks(body)
    raise TypeError(f"body: got {type(body).__name__}; allowed are GPT2Model, LlamaModel, Qwen2Model")
