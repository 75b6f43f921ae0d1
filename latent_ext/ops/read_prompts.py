"""The op `read_prompts` on packed models."""

from __future__ import annotations

import torch
from torch import Tensor


def read_prompts(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    tokens: Tensor,
    offsets: Tensor,
    keys: Tensor,
    seed: Tensor,
    *,
    p: float,
    per_trajectory: bool,
    embedding: bool,
    last_hidden: bool,
    prefix_key: Tensor,
    prefix_value: Tensor,
) -> Tensor:
    """See csrc/torch_bindings.cpp."""
    return torch.ops.latent_ext.read_prompts(
        model,
        position_embedding,
        token_embedding,
        tokens,
        offsets,
        keys,
        seed,
        p,
        per_trajectory,
        embedding,
        last_hidden,
        prefix_key,
        prefix_value,
    )


@torch.library.register_fake("latent_ext::read_prompts")
def _fake(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    tokens: Tensor,
    offsets: Tensor,
    keys: Tensor,
    seed: Tensor,
    p: float,
    per_trajectory: bool,
    embedding: bool,
    last_hidden: bool,
    prefix_key: Tensor,
    prefix_value: Tensor,
) -> Tensor:
    rows = prefix_key.shape[1] if last_hidden else 0
    return token_embedding.new_empty(rows, token_embedding.shape[1])
