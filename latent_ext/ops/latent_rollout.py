"""The whole latent phase of many trajectories on a packed model: steps, layers and rows in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.ops.arguments import as_int64, check_inference, check_packed
from latent_ext.ops.keys import child_key
from latent_ext.ops.next_thought import next_thought_reference
from latent_ext.ops.packed_reference import Dropout, Model, attend_with, pass_rows, unpack
from latent_ext.ops.score_and_prune import score_and_prune_reference


def latent_rollout(
    model: Tensor,
    position_embedding: Tensor | None,
    first: Tensor,
    first_is_hidden: bool,
    keys: Tensor,
    seed: int | Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: int = 0,
    reward_model: Tensor | None = None,
    reward_position_embedding: Tensor | None = None,
    reward_prompt_index: Tensor | None = None,
    reward_prompt_len: Tensor | None = None,
    reward_prefix_key: Tensor | None = None,
    reward_prefix_value: Tensor | None = None,
    *,
    p: float = 0.0,
    per_trajectory: bool = False,
    embedding: bool = False,
    svp: float = 0.0,
    sigma: float = 0.0,
    relative: bool = False,
    questions: int = 1,
    keep: Sequence[int] = (),
    candidates: int = 1,
    thoughts: Tensor,
    step_scores: Tensor | None = None,
    lineage: Tensor,
    final_keys: Tensor,
    final_prompts: Tensor,
    model_header: Tensor | None = None,
    reward_header: Tensor | None = None,
    rung: str = "auto",
) -> None:
    """Form `steps` thoughts of every row; score, prune and branch the rows between the steps.

    Each step forms a thought from the last hidden state (thought head, then noise as in `next_thought`), has the
    LatentRM read it, and, where `keep` says so, keeps the best rows of each question by the sum of their scores (ties
    to the smaller row) in their old order. Each kept row becomes `candidates` neighbouring rows, unless the step is the
    last one: child 0 goes on under its parent's key, child c under ``keys.child_key(key, step, c)`` with steps counted
    from 1. The row then reads its thought. The last thought is not read.

    Row r always writes its keys and values to slot r. What it inherits stays where its ancestors wrote it and is
    found through `ancestry`, so pruning moves no cache. What a row computes depends only on its own prompt, key and
    ancestors, on no number of threads, and is the same bits at the CPU levels avx2 and avx512 for fp32 weights.

    At the end there are as many rows as pruning has left, the same number for each question, neighbours; of the
    entries of the written tensors behind them nothing is said.

    Args:
        model: uint8 [bytes], written by `latent_ext.models.packed.pack`.
        position_embedding: float32 [positions, hidden], contiguous, or None for a model that rotates queries and keys.
        first: float32 [rows, hidden], what yields the first thought; rows of a question are neighbours, the same
            number for each.
        first_is_hidden: `first` holds final-norm hidden states; else inputs (token embeddings) that are still to be
            read, behind the prompt and what `suffix_len` counts.
        keys: int64 [rows], trajectory keys.
        seed: 64-bit run seed, an int or an int64 tensor with one element.
        prompt_index: int64 [rows], the prompt of each row, in [0, prompts).
        prompt_len: int64 [prompts], real length of each prompt, in [0, max_prompt].
        prefix_key, prefix_value: float32 [layers, prompts, kv_heads, max_prompt, head_dim], contiguous.
        suffix_key, suffix_value: float32 [layers, slots, kv_heads, max_suffix, head_dim], contiguous; written. There
            are at least `capacity` slots, and room for suffix_len + steps positions, one less with `first_is_hidden`.
        ancestry: int64 [capacity, max_suffix], contiguous. Its first `suffix_len` columns say in which slots the rows'
            earlier positions are; written: the slots of all positions of the rows at the end.
        suffix_len: suffix positions that every row has read before, 0 by default.
        reward_model: uint8 [bytes], a packed LatentRM of the same hidden size, or None (default).
        reward_position_embedding, reward_prompt_index, reward_prompt_len, reward_prefix_key, reward_prefix_value: the
            same of the LatentRM, which always reads without randomness.
        p: probability of dropping what the MLP (in GPT-2 the attention, too) adds to the residual, in [0, 1); 0 by
            default.
        per_trajectory: one mask for all positions of a trajectory instead of one per position (default).
        embedding: also drop at the embedding; False by default.
        svp: standard deviation of the noise on the singular values of every layer's W_V, in units of each of them; one
            normal for each layer, singular value and trajectory. 0 by default; above it `model` holds the spectra, and
            is on the CPU.
        sigma, relative: standard deviation of the noise on thoughts, see `next_thought`; 0 and False by default.
        questions: how many questions the rows belong to, 1 by default.
        keep: per step, how many rows each question keeps after it, 0 for all; empty (default) to prune nothing. Needs
            a LatentRM.
        candidates: rows that each kept row becomes for the next step, in [1, 2**20], 1 by default.
        thoughts: float32 [capacity, steps, hidden], contiguous; written. `capacity` is the largest number of rows that
            there are at any step.
        step_scores: float32 [capacity, steps], contiguous; written: the LatentRM's scores (logits). Given with a
            LatentRM and only then.
        lineage: int64 [capacity, steps], contiguous; written: which row was this trajectory at each step.
        final_keys: int64 [capacity], contiguous; written: the keys at the end.
        final_prompts: int64 [capacity], contiguous; written: `prompt_index` of the rows at the end.
        model_header, reward_header: int64 [entries] on the CPU, `PackedModel.header` of models whose bytes are on a CUDA
            device; None (default) on the CPU.
        rung: how CUDA runs the phases: "persistent", one cooperative launch; "stream", one launch per phase; "auto"
            (default), the first where the device can. Both give the same bits. The CPU knows "auto" alone.

    On CUDA all caches have the dtype of the weights (bfloat16 with bf16), nothing is read back by the host, and the call
    can be captured in a graph. Indices, lengths and slots are on the device then and cannot be refused: a row with wrong
    ones gets NaN for its thoughts and scores, and -1 in `final_prompts`. Where rows are pruned `ancestry` may name the
    slot of the row that wrote a position before the pruning, rather than that of its child: the LatentRM and the
    generator read a thought in one pass there, unless children draw masks of their own.

    Raises:
        TypeError: `model` or `reward_model` does not hold bytes, or `seed` is not an int64.
        RuntimeError: `model` or `reward_model` is not a packed model, another argument is not as listed above, or one
            requires grad while grad mode is on.

    Source: You et al., "Parallel test-time scaling for latent reasoning models", 2025 (LatentTTS: Monte-Carlo dropout,
    additive Gaussian noise, LatentRM, beam search); S. Hao et al., "Training large language models to reason in a
    continuous latent space" (COCONUT), 2024, for thoughts fed back as inputs.
    """
    run_seed = _check(
        model,
        seed,
        reward_model,
        position_embedding=position_embedding,
        first=first,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
        suffix_key=suffix_key,
        suffix_value=suffix_value,
        reward_position_embedding=reward_position_embedding,
        reward_prefix_key=reward_prefix_key,
        reward_prefix_value=reward_prefix_value,
        thoughts=thoughts,
        step_scores=step_scores,
    )
    torch.ops.latent_ext.latent_rollout(
        model,
        position_embedding,
        first.contiguous(),
        first_is_hidden,
        keys.contiguous(),
        run_seed,
        prompt_index.contiguous(),
        prompt_len.contiguous(),
        prefix_key,
        prefix_value,
        suffix_key,
        suffix_value,
        ancestry,
        suffix_len,
        reward_model,
        reward_position_embedding,
        None if reward_prompt_index is None else reward_prompt_index.contiguous(),
        None if reward_prompt_len is None else reward_prompt_len.contiguous(),
        reward_prefix_key,
        reward_prefix_value,
        p,
        per_trajectory,
        embedding,
        svp,
        sigma,
        relative,
        questions,
        list(keep),
        candidates,
        thoughts,
        step_scores,
        lineage,
        final_keys,
        final_prompts,
        model_header,
        reward_header,
        rung,
    )


@dataclass
class _Rows:
    """What is known of every row; pruning selects from all of it alike."""

    keys: Tensor  # [rows]
    prompt_index: Tensor  # [rows]
    ancestry: Tensor  # [rows, max_suffix]
    thoughts: Tensor  # [rows, steps, hidden]
    lineage: Tensor  # [rows, steps]
    step_scores: Tensor  # [rows, steps]
    total: Tensor  # [rows]
    reward_prompt_index: Tensor  # [rows]
    reward_ancestry: Tensor  # [rows, steps]

    def select(self, rows: Tensor) -> _Rows:
        return _Rows(**{name: values[rows] for name, values in self.__dict__.items()})

    def own_future(self, length: int, step: int) -> None:
        """Row r writes to slot r from suffix position `length` and from `step` on."""
        own = torch.arange(len(self.keys)).unsqueeze(1)
        self.ancestry[:, length:] = own
        self.reward_ancestry[:, step:] = own
        self.lineage[:, step:] = own


def latent_rollout_reference(
    model: Tensor,
    position_embedding: Tensor | None,
    first: Tensor,
    first_is_hidden: bool,
    keys: Tensor,
    seed: int | Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: int = 0,
    reward_model: Tensor | None = None,
    reward_position_embedding: Tensor | None = None,
    reward_prompt_index: Tensor | None = None,
    reward_prompt_len: Tensor | None = None,
    reward_prefix_key: Tensor | None = None,
    reward_prefix_value: Tensor | None = None,
    *,
    p: float = 0.0,
    per_trajectory: bool = False,
    embedding: bool = False,
    svp: float = 0.0,
    sigma: float = 0.0,
    relative: bool = False,
    questions: int = 1,
    keep: Sequence[int] = (),
    candidates: int = 1,
    thoughts: Tensor,
    step_scores: Tensor | None = None,
    lineage: Tensor,
    final_keys: Tensor,
    final_prompts: Tensor,
    model_header: Tensor | None = None,
    reward_header: Tensor | None = None,
    rung: str = "auto",
) -> None:
    """`latent_rollout` in plain PyTorch, step by step: same arguments, same draws, sums in PyTorch's order."""
    run_seed = _check(
        model,
        seed,
        reward_model,
        position_embedding=position_embedding,
        first=first,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
        suffix_key=suffix_key,
        suffix_value=suffix_value,
        reward_position_embedding=reward_position_embedding,
        reward_prefix_key=reward_prefix_key,
        reward_prefix_value=reward_prefix_value,
        thoughts=thoughts,
        step_scores=step_scores,
    )
    body, dropout = unpack(model), Dropout(p, per_trajectory, embedding, run_seed, svp)
    scorer = None if reward_model is None else unpack(reward_model)
    capacity, steps = thoughts.shape[:2]
    count = len(first)
    rows = _Rows(
        keys=keys,
        prompt_index=prompt_index,
        ancestry=ancestry[:count].clone(),
        thoughts=torch.zeros(count, steps, body.hidden),
        lineage=torch.zeros(count, steps, dtype=torch.int64),
        step_scores=torch.zeros(count, steps),
        total=torch.zeros(count),
        reward_prompt_index=prompt_index if reward_prompt_index is None else reward_prompt_index,
        reward_ancestry=torch.zeros(count, steps, dtype=torch.int64),
    )
    length = suffix_len
    rows.own_future(length, 0)
    # The LatentRM's own pages, which nobody needs afterwards.
    if scorer is not None:
        shape = (len(scorer.layers), capacity, scorer.kv_heads, steps, scorer.head_dim)
        reward_key, reward_value = torch.zeros(shape), torch.zeros(shape)

    hidden = first
    for t in range(steps):
        if t > 0 or not first_is_hidden:
            lengths = torch.full_like(rows.keys, length)
            attend = attend_with(
                body,
                prefix_key,
                prefix_value,
                rows.prompt_index,
                prompt_len,
                suffix_key,
                suffix_value,
                rows.ancestry,
                lengths,
            )
            inputs = first if t == 0 else rows.thoughts[:, t - 1]
            positions = prompt_len[rows.prompt_index] + length
            hidden = pass_rows(body, position_embedding, inputs, positions, rows.keys, attend, dropout)
            length += 1
        form_thoughts(
            body, rows, t, hidden, prompt_len[rows.prompt_index] + length, run_seed, sigma, relative
        )
        if scorer is None:
            continue

        assert reward_prompt_len is not None
        assert reward_prefix_key is not None
        assert reward_prefix_value is not None
        attend = attend_with(
            scorer,
            reward_prefix_key,
            reward_prefix_value,
            rows.reward_prompt_index,
            reward_prompt_len,
            reward_key,
            reward_value,
            rows.reward_ancestry,
            torch.full_like(rows.keys, t),
        )
        positions = reward_prompt_len[rows.reward_prompt_index] + t
        seen = pass_rows(scorer, reward_position_embedding, rows.thoughts[:, t], positions, rows.keys, attend)
        width = len(rows.keys) // questions
        assert scorer.score_weight is not None
        rows.step_scores[:, t], rows.total, best = score_and_prune_reference(
            seen,
            scorer.score_weight,
            scorer.score_bias,
            rows.total,
            torch.arange(questions + 1) * width,
            min(width, keep[t]) if keep else 0,
        )
        if not keep or keep[t] == 0:
            continue

        children = torch.arange(candidates if t + 1 < steps else 1)
        kept = best.reshape(-1).sort().values
        keys = child_key(rows.keys[kept].unsqueeze(1), t + 1, children).reshape(-1)
        rows = rows.select(kept.repeat_interleave(len(children)))
        rows.keys = keys
        rows.own_future(length, t + 1)

    count = len(rows.keys)
    thoughts[:count], lineage[:count], ancestry[:count] = rows.thoughts, rows.lineage, rows.ancestry
    final_keys[:count], final_prompts[:count] = rows.keys, rows.prompt_index
    if step_scores is not None:
        step_scores[:count] = rows.step_scores


def form_thoughts(
    model: Model,
    rows: _Rows,
    t: int,
    hidden: Tensor,
    positions: Tensor,
    seed: Tensor,
    sigma: float,
    relative: bool,
) -> None:
    """From hidden [rows, hidden], through the thought head, to thought t of the rows with its noise."""
    for stage, activation in model.stages:
        hidden = activation(stage(hidden))
    norm = model.thought_norm
    next_thought_reference(
        hidden,
        norm.weight,
        norm.bias,
        None,
        rows.keys,
        positions,
        seed,
        next_input=torch.empty_like(hidden),
        thoughts=rows.thoughts,
        step=t,
        eps=norm.eps,
        norm=norm.kind,
        scale=model.thought_scale,
        sigma=sigma,
        relative=relative,
    )


def _check(
    model: Tensor, seed: int | Tensor, reward_model: Tensor | None, **tensors: Tensor | None
) -> Tensor:
    check_packed("model", model)
    if reward_model is not None:
        check_packed("reward_model", reward_model)
    check_inference("latent_rollout", **tensors)
    return as_int64(seed, name="seed")


@torch.library.register_fake("latent_ext::latent_rollout")
def _fake(
    model: Tensor,
    position_embedding: Tensor | None,
    first: Tensor,
    first_is_hidden: bool,
    keys: Tensor,
    seed: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: int,
    reward_model: Tensor | None,
    reward_position_embedding: Tensor | None,
    reward_prompt_index: Tensor | None,
    reward_prompt_len: Tensor | None,
    reward_prefix_key: Tensor | None,
    reward_prefix_value: Tensor | None,
    p: float,
    per_trajectory: bool,
    embedding: bool,
    svp: float,
    sigma: float,
    relative: bool,
    questions: int,
    keep: list[int],
    candidates: int,
    thoughts: Tensor,
    step_scores: Tensor | None,
    lineage: Tensor,
    final_keys: Tensor,
    final_prompts: Tensor,
    model_header: Tensor | None,
    reward_header: Tensor | None,
    rung: str,
) -> None:
    return None
