"""Whole prompts through a packed model: their keys and values in every layer, and the last hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops.arguments import as_int64, check_inference, check_packed
from latent_ext.ops.packed_reference import Dropout, attend_with, pass_rows, unpack


def read_prompts(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    tokens: Tensor,
    offsets: Tensor,
    keys: Tensor,
    seed: int | Tensor,
    *,
    p: float = 0.0,
    per_trajectory: bool = False,
    embedding: bool = False,
    svp: float = 0.0,
    last_hidden: bool = True,
    prefix_key: Tensor,
    prefix_value: Tensor,
) -> Tensor:
    """Read prompts of any lengths at positions 0, 1, ..., and fill their caches.

    Prompt b is ``tokens[offsets[b] : offsets[b + 1]]``; there is no padding. What is written for a prompt depends on
    no other prompt and on no number of threads, and is the same bits at the CPU levels avx2 and avx512 for fp32
    weights.

    Args:
        model: uint8 [bytes], written by `latent_ext.models.packed.pack`.
        position_embedding: float32 [positions, hidden], contiguous, or None for a model that rotates queries and keys.
        token_embedding: float32 [vocabulary, hidden], contiguous.
        tokens: int64 [tokens], in [0, vocabulary).
        offsets: int64 [prompts + 1], from 0 to the number of tokens; no prompt is longer than max_prompt, and with
            `last_hidden` none is empty.
        keys: int64 [prompts], trajectory keys, from which dropout and noise are drawn.
        seed: 64-bit run seed, an int or an int64 tensor with one element.
        p: probability of dropping what the MLP (in GPT-2 the attention, too) adds to the residual, in [0, 1); 0 by
            default.
        per_trajectory: one mask for all positions of a prompt instead of one per position (default).
        embedding: also drop at the embedding; False by default.
        svp: noise on the singular values of W_V, see `latent_rollout`; 0 by default.
        last_hidden: whether the hidden states of the last tokens are wanted; True by default.
        prefix_key, prefix_value: float32 [layers, prompts, kv_heads, max_prompt, head_dim], contiguous; written up to
            each prompt's length.

    Returns:
        float32 [prompts, hidden], final-norm hidden states of the last tokens; [0, hidden] without `last_hidden`.

    Raises:
        TypeError: `model` does not hold bytes, or `seed` is not an int64.
        RuntimeError: `model` is not a packed model, another argument is not as listed above, or one requires grad
            while grad mode is on.

    Source: You et al., "Parallel test-time scaling for latent reasoning models", 2025 (Monte-Carlo dropout).
    """
    run_seed = _check(model, position_embedding, token_embedding, seed, prefix_key, prefix_value)
    return torch.ops.latent_ext.read_prompts(
        model,
        position_embedding,
        token_embedding,
        tokens.contiguous(),
        offsets.contiguous(),
        keys.contiguous(),
        run_seed,
        p,
        per_trajectory,
        embedding,
        svp,
        last_hidden,
        prefix_key,
        prefix_value,
    )


def read_prompts_reference(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    tokens: Tensor,
    offsets: Tensor,
    keys: Tensor,
    seed: int | Tensor,
    *,
    p: float = 0.0,
    per_trajectory: bool = False,
    embedding: bool = False,
    svp: float = 0.0,
    last_hidden: bool = True,
    prefix_key: Tensor,
    prefix_value: Tensor,
) -> Tensor:
    """`read_prompts` in plain PyTorch, position by position: same arguments, sums in PyTorch's order."""
    run_seed = _check(model, position_embedding, token_embedding, seed, prefix_key, prefix_value)
    body, dropout = unpack(model), Dropout(p, per_trajectory, embedding, run_seed, svp)
    lengths = offsets.diff()
    hidden = torch.zeros(len(lengths), body.hidden)
    # A prompt that is being read is a suffix behind an empty prompt; its pages are the cache that is filled.
    nothing = torch.empty(len(body.layers), 1, body.kv_heads, 0, body.head_dim)
    no_length = torch.zeros(1, dtype=torch.int64)
    for position in range(int(lengths.max()) if len(lengths) > 0 else 0):
        prompts = (lengths > position).nonzero().squeeze(1)
        positions = torch.full_like(prompts, position)
        pages = prompts.unsqueeze(1).expand(-1, prefix_key.shape[3])
        attend = attend_with(
            body,
            nothing,
            nothing,
            torch.zeros_like(prompts),
            no_length,
            prefix_key,
            prefix_value,
            pages,
            positions,
        )
        inputs = token_embedding[tokens[offsets[prompts] + position]]
        hidden[prompts] = pass_rows(
            body, position_embedding, inputs, positions, keys[prompts], attend, dropout
        )
    return hidden if last_hidden else hidden[:0]


def _check(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    seed: int | Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
) -> Tensor:
    check_packed("model", model)
    check_inference(
        "read_prompts",
        position_embedding=position_embedding,
        token_embedding=token_embedding,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
    )
    return as_int64(seed, name="seed")


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
    svp: float,
    last_hidden: bool,
    prefix_key: Tensor,
    prefix_value: Tensor,
) -> Tensor:
    rows = prefix_key.shape[1] if last_hidden else 0
    return token_embedding.new_empty(rows, token_embedding.shape[1])
