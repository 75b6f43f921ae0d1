"""Answers of many rows on a packed model, token by token until each one ends."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops.arguments import as_int64, check_inference, check_packed
from latent_ext.ops.next_token import choose, tempered
from latent_ext.ops.packed_reference import attend_with, pass_rows, unpack


def decode_answers(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    thought: Tensor | None,
    first_token: Tensor,
    keys: Tensor,
    seed: int | Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int,
    end_of_sequence: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read the thought, then `first_token`, and draw up to `max_tokens` tokens for every row.

    Nothing is dropped here. A token is chosen as in `next_token`, by the position at which it will be read. Rows that
    drew `end_of_sequence` leave the batch. What a row draws depends on no other row and on no number of threads, and is
    the same bits at the CPU levels avx2 and avx512 for fp32 weights.

    Args:
        model: uint8 [bytes], written by `latent_ext.models.packed.pack`, with an LM head.
        position_embedding: float32 [positions, hidden], contiguous, or None for a model that rotates queries and keys.
        token_embedding: float32 [tokens, hidden], contiguous, at least as many as the LM head has.
        thought: float32 [rows, hidden], read before the first token, or None.
        first_token: int64 [rows], in [0, tokens): read first, not part of the answer.
        keys: int64 [rows], trajectory keys.
        seed: 64-bit run seed, an int or an int64 tensor with one element.
        prompt_index: int64 [rows], the prompt of each row, in [0, prompts).
        prompt_len: int64 [prompts], real length of each prompt, in [0, max_prompt].
        prefix_key, prefix_value: float32 [layers, prompts, kv_heads, max_prompt, head_dim], contiguous.
        suffix_key, suffix_value: float32 [layers, slots, kv_heads, max_suffix, head_dim], contiguous; written.
        ancestry: int64 [rows, max_suffix], the slot of each suffix position of a row; positions that the row will
            write have a slot that no other row writes or reads at that position.
        suffix_len: int64 [rows], contiguous; suffix positions that a row has read before; written: those that it has
            read in the end. There is room for max_tokens more, and for the thought.
        temperature: at least 0; 0 (default) is greedy and draws nothing.
        top_p: in (0, 1], see `next_token`; 1 (default) draws from all tokens. Below it the logits of up to 128 rows are
            in memory.
        max_tokens: at least 1.
        end_of_sequence: the token that ends an answer; any other int for none.

    Returns:
        tokens: int64 [rows, max_tokens], without `end_of_sequence`, -1 behind the last token.
        logprob: float32 [rows], sum of the tokens' log probabilities (natural logarithm, untempered),
            `end_of_sequence` included.
        finished: bool [rows], whether `end_of_sequence` was drawn.

    Raises:
        TypeError: `model` does not hold bytes, or `seed` is not an int64.
        RuntimeError: `model` is not a packed model with an LM head, another argument is not as listed above, or one
            requires grad while grad mode is on.

    Source: as `next_token`.
    """
    run_seed = _check(
        model,
        seed,
        position_embedding=position_embedding,
        token_embedding=token_embedding,
        thought=thought,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
        suffix_key=suffix_key,
        suffix_value=suffix_value,
    )
    return torch.ops.latent_ext.decode_answers(
        model,
        position_embedding,
        token_embedding,
        None if thought is None else thought.contiguous(),
        first_token.contiguous(),
        keys.contiguous(),
        run_seed,
        prompt_index.contiguous(),
        prompt_len.contiguous(),
        prefix_key,
        prefix_value,
        suffix_key,
        suffix_value,
        ancestry.contiguous(),
        suffix_len,
        temperature,
        top_p,
        max_tokens,
        end_of_sequence,
    )


def decode_answers_reference(
    model: Tensor,
    position_embedding: Tensor | None,
    token_embedding: Tensor,
    thought: Tensor | None,
    first_token: Tensor,
    keys: Tensor,
    seed: int | Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int,
    end_of_sequence: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`decode_answers` in plain PyTorch, all logits in memory: same arguments and draw, other order of sums."""
    run_seed = _check(
        model,
        seed,
        position_embedding=position_embedding,
        token_embedding=token_embedding,
        thought=thought,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
        suffix_key=suffix_key,
        suffix_value=suffix_value,
    )
    body = unpack(model)
    assert body.lm_head is not None
    rows = len(first_token)
    tokens = torch.full((rows, max_tokens), -1, dtype=torch.int64)
    logprob, finished = torch.zeros(rows), torch.zeros(rows, dtype=torch.bool)
    alive = torch.arange(rows)

    def read(inputs: Tensor) -> Tensor:
        """One input vector for each row that is alive; their final hidden states."""
        attend = attend_with(
            body,
            prefix_key,
            prefix_value,
            prompt_index[alive],
            prompt_len,
            suffix_key,
            suffix_value,
            ancestry[alive],
            suffix_len[alive],
        )
        positions = prompt_len[prompt_index[alive]] + suffix_len[alive]
        hidden = pass_rows(body, position_embedding, inputs, positions, keys[alive], attend)
        suffix_len[alive] += 1
        return hidden

    if thought is not None:
        read(thought)
    token = first_token
    for emitted in range(max_tokens):
        if len(alive) == 0:
            break
        logits = body.lm_head(read(token_embedding[token]))
        positions = prompt_len[prompt_index[alive]] + suffix_len[alive]
        token = choose(tempered(logits, keys[alive], positions, run_seed, temperature, top_p))
        logprob[alive] += logits.log_softmax(dim=1).gather(1, token.unsqueeze(1)).squeeze(1)
        ended = token == end_of_sequence
        finished[alive] = ended
        alive, token = alive[~ended], token[~ended]
        tokens[alive, emitted] = token
    return tokens, logprob, finished


def _check(model: Tensor, seed: int | Tensor, **tensors: Tensor | None) -> Tensor:
    check_packed("model", model)
    check_inference("decode_answers", **tensors)
    return as_int64(seed, name="seed")


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
    top_p: float,
    max_tokens: int,
    end_of_sequence: int,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = first_token.shape[0]
    tokens = first_token.new_empty(rows, max_tokens)
    return tokens, token_embedding.new_empty(rows), first_token.new_empty(rows, dtype=torch.bool)
