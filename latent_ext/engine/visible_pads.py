"""Original CODI's batches: questions padded on the left, pads counted by positions and seen by later passes.

The authors' code gives the attention mask to the prompt's pass alone and never gives positions. What a pad's own pass
computes is then read by every later one, so this is Hugging Face's forward on the very batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GPT2Model

from latent_ext.models.latent_model import LatentModel
from latent_ext.samplers import Sampler

# transformers 5.24 renamed the argument, in every body at once, and warns at the old name.
CACHE_ARGUMENT = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"


@dataclass(frozen=True)
class PaddedPrompts:
    """A batch that was read with pads on the left.

    Attributes:
        cache: of the whole batch.
        keys, values: per layer [prompts, kv_heads, longest, head_dim], pads included.
        lengths: int64 [prompts], the longest prompt's for all.
        last_hidden: [prompts, hidden].
    """

    cache: DynamicCache
    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    last_hidden: Tensor


@torch.no_grad()
def read_padded(model: LatentModel, prompts: Sequence[Tensor], sampler: Sampler) -> PaddedPrompts:
    """Reads prompts as one left-padded batch.

    Args:
        model: in eval mode.
        prompts: int64 [length] ids each.
        sampler: must not act in the body: with visible pads, prompts are read once, clean.

    Raises:
        ValueError: if the sampler acts in the body.
    """
    if sampler.acts_in_body:
        raise ValueError(f"sampler: got {sampler}; pads='visible' allows no dropout and no noise on W_V")
    longest = max((len(prompt) for prompt in prompts), default=0)
    device = model.device
    tokens = torch.full((len(prompts), longest), model.ids.pad, dtype=torch.int64, device=device)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    positions = torch.arange(longest, device=device).expand_as(tokens)
    cache = DynamicCache()
    output = model.body(
        inputs_embeds=model.hf.get_input_embeddings()(tokens),
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        **{CACHE_ARGUMENT: cache},
    )
    layers: Any = cache.layers  # typed as layers of every kind of cache
    return PaddedPrompts(
        cache,
        [layer.keys.contiguous() for layer in layers],
        [layer.values.contiguous() for layer in layers],
        torch.full((len(prompts),), longest, device=device),
        output.last_hidden_state[:, -1].contiguous(),
    )
