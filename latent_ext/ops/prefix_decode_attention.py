"""Attention of one new position per row over a shared prompt cache and a branching suffix cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_ext.ops.arguments import (
    check_finite,
    check_inference,
    check_mutable,
    check_range,
    check_rank,
    check_storage,
    check_tensor,
)


def prefix_decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    scale: float | None = None,
) -> Tensor:
    """Store the new key and value of each row in the suffix cache, then attend to prompt and suffix.

    With L = suffix_len[r], the key and value of row r go to position L of slot ancestry[r, L]. The row then
    attends to the first prompt_len positions of its prompt and to suffix positions 0 .. L, of which position
    s is read from slot ancestry[r, s]. Beams that share ancestors therefore share their cache entries, and
    pruning moves indices, not caches. Query head h reads key head h // (heads / kv_heads). The arithmetic is
    float32; a row's result depends on no other row and on no number of threads, and is the same bits at the
    CPU levels avx2 and avx512.

    Args:
        query: float32 or bfloat16 [rows, heads, head_dim], positions already encoded (rotated).
        key, value: [rows, kv_heads, head_dim], dtype of `query`; of the new position.
        prefix_key, prefix_value: [prompts, kv_heads, max_prompt, head_dim], dtype of `query`.
        prompt_index: int64 [rows], the prompt of each row, in [0, prompts).
        prompt_len: int64 [prompts], real length of each prompt, in [0, max_prompt]; later positions are never
            read.
        suffix_key, suffix_value: [slots, kv_heads, max_suffix, head_dim], dtype of `query`, contiguous; one
            position per row is written.
        ancestry: int64 [rows, max_suffix], the slot that holds each suffix position of a row. Entries 0 .. L
            must be in [0, slots), later ones are not read. No two rows may write the same position of the
            same slot, and below its own L no row may read what another row writes in the same call.
        suffix_len: int64 [rows], suffix positions before the new one, in [0, max_suffix).
        scale: factor of the logits; ``1 / sqrt(head_dim)`` by default.

    Returns:
        [rows, heads, head_dim], dtype of `query`.

    Raises:
        TypeError: an argument has a dtype that is not listed above.
        ValueError: a shape, device or memory layout that is not allowed.
        RuntimeError: an index is out of range (checked on the CPU), or an input requires grad while grad mode
            is on.

    Source: A. Vaswani et al., "Attention is all you need", 2017; J. Ainslie et al., "GQA", 2023, for grouped
    heads; J. Juravsky et al., "Hydragen: high-throughput LLM inference with shared prefixes", 2024, for the
    shared prompt.
    """
    scale = _check(
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        prompt_index,
        prompt_len,
        suffix_key,
        suffix_value,
        ancestry,
        suffix_len,
        scale,
    )
    return torch.ops.latent_ext.prefix_decode_attention(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        prefix_key.contiguous(),
        prefix_value.contiguous(),
        prompt_index.contiguous(),
        prompt_len.contiguous(),
        suffix_key,
        suffix_value,
        ancestry.contiguous(),
        suffix_len.contiguous(),
        scale,
    )


def prefix_decode_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    scale: float | None = None,
) -> Tensor:
    """`prefix_decode_attention` in plain PyTorch, row by row: same arguments, sums in PyTorch's order.

    Raises ValueError for an index that is out of range.
    """
    scale = _check(
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        prompt_index,
        prompt_len,
        suffix_key,
        suffix_value,
        ancestry,
        suffix_len,
        scale,
    )
    slots, max_suffix = suffix_key.shape[0], suffix_key.shape[2]
    check_range(prompt_index, 0, prefix_key.shape[0], "prompt_index")
    check_range(prompt_len, 0, prefix_key.shape[2] + 1, "prompt_len")
    check_range(suffix_len, 0, max_suffix, "suffix_len")
    lengths = suffix_len.tolist()
    for row, length in enumerate(lengths):
        check_range(ancestry[row, : length + 1], 0, slots, "ancestry")
    places = [(int(ancestry[row, length]), length) for row, length in enumerate(lengths)]
    if len(set(places)) < len(places):
        raise ValueError(
            f"ancestry must give every row its own place to write, got (slot, position) {places}"
        )

    for row, (slot, length) in enumerate(places):
        suffix_key[slot, :, length] = key[row]
        suffix_value[slot, :, length] = value[row]

    output = torch.empty_like(query)
    group = query.shape[1] // key.shape[1]
    for row, length in enumerate(lengths):
        prompt = int(prompt_index[row])
        prompt_length = int(prompt_len[prompt])
        ancestors = ancestry[row, : length + 1]
        position = torch.arange(length + 1, device=ancestors.device)
        # [kv_heads, positions, head_dim]
        keys = torch.cat(
            [prefix_key[prompt, :, :prompt_length], suffix_key[ancestors, :, position].transpose(0, 1)], dim=1
        )
        values = torch.cat(
            [prefix_value[prompt, :, :prompt_length], suffix_value[ancestors, :, position].transpose(0, 1)],
            dim=1,
        )
        keys = keys.to(torch.float32).repeat_interleave(group, dim=0)
        values = values.to(torch.float32).repeat_interleave(group, dim=0)
        logits = torch.einsum("hd,hpd->hp", query[row].to(torch.float32), keys) * scale
        output[row] = torch.einsum("hp,hpd->hd", logits.softmax(dim=-1), values).to(query.dtype)
    return output


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    scale: float | None,
) -> float:
    check_storage("query", query)
    dtype, device = query.dtype, query.device
    for name, tensor, axes in (
        ("query", query, "[rows, heads, head_dim]"),
        ("key", key, "[rows, kv_heads, head_dim]"),
        ("prefix_key", prefix_key, "[prompts, kv_heads, max_prompt, head_dim]"),
        ("suffix_key", suffix_key, "[slots, kv_heads, max_suffix, head_dim]"),
    ):
        check_rank(name, tensor, axes)
    rows, heads, head_dim = query.shape
    kv_heads = key.shape[1]
    prompts, max_prompt = prefix_key.shape[0], prefix_key.shape[2]
    slots, max_suffix = suffix_key.shape[0], suffix_key.shape[2]
    if head_dim == 0 or kv_heads == 0 or heads % kv_heads != 0:
        raise ValueError(
            f"key must have kv_heads that divide the {heads} heads of query, and head_dim at least 1; "
            f"got kv_heads {kv_heads}, head_dim {head_dim}"
        )
    for name, tensor in (("key", key), ("value", value)):
        check_tensor(name, tensor, (rows, kv_heads, head_dim), "[rows, kv_heads, head_dim]", dtype, device)
    for name, tensor in (("prefix_key", prefix_key), ("prefix_value", prefix_value)):
        shape = (prompts, kv_heads, max_prompt, head_dim)
        check_tensor(name, tensor, shape, "[prompts, kv_heads, max_prompt, head_dim]", dtype, device)
    for name, tensor in (("suffix_key", suffix_key), ("suffix_value", suffix_value)):
        shape = (slots, kv_heads, max_suffix, head_dim)
        check_tensor(name, tensor, shape, "[slots, kv_heads, max_suffix, head_dim]", dtype, device)
        check_mutable(name, tensor)
    check_tensor("prompt_index", prompt_index, (rows,), "[rows]", torch.int64, device)
    check_tensor("prompt_len", prompt_len, (prompts,), "[prompts]", torch.int64, device)
    check_tensor("ancestry", ancestry, (rows, max_suffix), "[rows, max_suffix]", torch.int64, device)
    check_tensor("suffix_len", suffix_len, (rows,), "[rows]", torch.int64, device)
    check_inference(
        "prefix_decode_attention",
        query=query,
        key=key,
        value=value,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
        suffix_key=suffix_key,
        suffix_value=suffix_value,
    )
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    check_finite("scale", scale)
    return scale


@torch.library.register_fake("latent_ext::prefix_decode_attention")
def _fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    scale: float,
) -> Tensor:
    return torch.empty_like(query)
