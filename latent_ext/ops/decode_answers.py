"""The op `decode_answers` on packed models."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_answers(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    thought: Tensor | None,
    first_token: Tensor,
    keys: Tensor,
    seed: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    *,
    temperature: float,
    max_tokens: int,
    end_of_sequence: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See csrc/torch_bindings.cpp."""
    return torch.ops.latent_ext.decode_answers(
        model,
        position_embedding,
        token_embedding,
        thought,
        first_token,
        keys,
        seed,
        prompt_index,
        prompt_len,
        prefix_key,
        prefix_value,
        suffix_key,
        suffix_value,
        ancestry,
        suffix_len,
        temperature,
        max_tokens,
        end_of_sequence,
    )


@torch.library.register_fake("latent_ext::decode_answers")
def _fake(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    thought: Tensor | None,
    first_token: Tensor,
    keys: Tensor,
    seed: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    temperature: float,
    max_tokens: int,
    end_of_sequence: int,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = first_token.shape[0]
    tokens = first_token.new_empty(rows, max_tokens)
    return tokens, token_embedding.new_empty(rows), first_token.new_empty(rows, dtype=torch.bool)
