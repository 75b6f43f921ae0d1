"""Counter masks in Hugging Face's own forward, put there by hooks: the dropout of engine="reference"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import GPT2Model, PreTrainedModel

from latent_ext.engine.row_dropout import RowDropout
from latent_ext.ops import philox, sites


@contextmanager
def counter_dropout(body: PreTrainedModel, dropout: RowDropout, positions: Tensor) -> Iterator[None]:
    """Within the context, the forward of `body` applies the counter masks of `dropout`.

    Args:
        body: a ``GPT2Model``, ``LlamaModel`` or ``Qwen2Model`` in eval mode, so that its own dropout is the identity.
        dropout: keys of the batch's rows.
        positions: int64 [rows, length] of the forward that follows, which is given `inputs_embeds`.
    """
    mask_positions = dropout.mask_positions(positions).reshape(-1)
    keys = dropout.keys.repeat_interleave(positions.shape[1])

    def drop(x: Tensor, site: int) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        dropped = philox.dropout(flat, dropout.seed, keys, mask_positions, site, dropout.p)
        return dropped.to(x.dtype).reshape(x.shape)

    def drop_output(site: int):  # type: ignore[no-untyped-def]
        return lambda _module, _inputs, output: drop(output, site)

    def drop_inputs_embeds(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | {"inputs_embeds": drop(kwargs["inputs_embeds"], sites.EMBEDDING)}

    handles = []
    if dropout.p > 0.0:
        for module, site in _branch_ends(body):
            handles.append(module.register_forward_hook(drop_output(site)))
        if dropout.embedding and isinstance(body, GPT2Model):
            # After the position table has been added.
            handles.append(body.drop.register_forward_hook(drop_output(sites.EMBEDDING)))
        elif dropout.embedding:
            handles.append(body.register_forward_pre_hook(drop_inputs_embeds, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _branch_ends(body: PreTrainedModel) -> Iterator[tuple[nn.Module, int]]:
    """The modules whose outputs "residual" dropout acts on, with their sites."""
    blocks: Any  # nn.ModuleList has no element type
    if not isinstance(body, GPT2Model):  # Llama and Qwen2 share their names
        blocks = body.layers
        for layer, block in enumerate(blocks):
            yield block.mlp.down_proj, sites.layer_site(layer, sites.MLP_OUTPUT)
    else:
        blocks = body.h
        for layer, block in enumerate(blocks):
            yield block.attn.resid_dropout, sites.layer_site(layer, sites.ATTENTION_OUTPUT)
            yield block.mlp.dropout, sites.layer_site(layer, sites.MLP_OUTPUT)
