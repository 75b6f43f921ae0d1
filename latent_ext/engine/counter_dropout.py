"""Counter randomness in Hugging Face's own forward, put there by hooks: masks and noise on W_V of engine="reference"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Model, PreTrainedModel

from latent_ext.engine.row_dropout import RowDropout
from latent_ext.engine.value_noise import ValueNoise
from latent_ext.models.value_projection import value_bias, value_module
from latent_ext.ops import philox, sites


@contextmanager
def counter_dropout(body: PreTrainedModel, dropout: RowDropout, positions: Tensor) -> Iterator[None]:
    """Within the context, the forward of `body` applies the counter masks of `dropout`, and multiplies by
    each trajectory's own W_V.

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
    if dropout.values is not None:
        for layer in range(int(body.config.num_hidden_layers)):
            hook = own_values(body, layer, dropout.values)
            handles.append(value_module(body, layer).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def own_values(body: PreTrainedModel, layer: int, noise: ValueNoise) -> Callable[..., Tensor]:
    """A hook that replaces the values among the outputs of a `value_module` by those of each trajectory's own W_V."""

    def replaced(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        weight, bias = noise.weight(body, layer), value_bias(body, layer)
        x = inputs[0].to(torch.float32).reshape(len(weight), -1, weight.shape[2])
        values = x @ weight.transpose(1, 2)
        values = values if bias is None else values + bias
        size = weight.shape[1]
        others = output[..., : output.shape[-1] - size]
        return torch.cat([others, values.reshape(*output.shape[:-1], size).to(output.dtype)], dim=-1)

    return replaced


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
