"""The scalar head of a LatentRM on every row, the cumulative score, and the best rows of each question."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from latent_ext.ops.arguments import check_inference, check_rank, check_storage, check_tensor, check_width


def score_and_prune(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cumulative: Tensor,
    question_offsets: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score every row, add the score to the running sum, and name the `keep` best rows of each question.

    Rows of question b are ``question_offsets[b] .. question_offsets[b + 1] - 1``. They are ordered by total,
    largest first; equal totals go to the smaller row, NaN comes after -inf. The score is computed in float32,
    independent of the other rows and of the number of threads; it is the same bits at the CPU levels avx2 and
    avx512.

    Args:
        hidden: float32 or bfloat16 [rows, hidden], last hidden states of the LatentRM.
        weight: [hidden], dtype of `hidden`; the scalar head.
        bias: [1], dtype of `hidden`, or None.
        cumulative: float32 [rows], sum of the earlier step scores (logits).
        question_offsets: int64 [questions + 1], non-decreasing, from 0 to rows.
        keep: rows to keep per question, at least 0.

    Returns:
        step_score: float32 [rows], ``hidden @ weight + bias``.
        total: float32 [rows], ``cumulative + step_score``.
        survivors: int64 [questions, keep], row indices, best first; -1 where a question has fewer rows.

    Raises:
        TypeError: an argument has a dtype that is not listed above.
        ValueError: a shape or device that is not allowed, or a negative `keep`.
        RuntimeError: `question_offsets` is not as described (checked on the CPU), or an input requires grad
            while grad mode is on.

    Source: You et al., "Parallel test-time scaling for latent reasoning models", 2025 (LatentRM, beam
    search).
    """
    _check(hidden, weight, bias, cumulative, question_offsets, keep)
    return torch.ops.latent_ext.score_and_prune(
        hidden.contiguous(),
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        cumulative.contiguous(),
        question_offsets.contiguous(),
        keep,
    )


def score_and_prune_reference(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cumulative: Tensor,
    question_offsets: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`score_and_prune` in plain PyTorch: same arguments, sums in PyTorch's order.

    Raises ValueError where `question_offsets` is not non-decreasing from 0 to rows.
    """
    _check(hidden, weight, bias, cumulative, question_offsets, keep)
    offsets = question_offsets.tolist()
    if offsets[0] != 0 or offsets[-1] != hidden.shape[0] or sorted(offsets) != offsets:
        raise ValueError(
            f"question_offsets must not decrease and run from 0 to {hidden.shape[0]} rows, got {offsets}"
        )

    step_score = hidden.to(torch.float32) @ weight.to(torch.float32)
    if bias is not None:
        step_score = step_score + bias.to(torch.float32)
    total = cumulative + step_score
    survivors = torch.full((len(offsets) - 1, keep), -1, dtype=torch.int64, device=hidden.device)
    for question, (begin, end) in enumerate(itertools.pairwise(offsets)):
        best = best_first(total[begin:end])[:keep]
        survivors[question, : len(best)] = begin + best
    return step_score, total, survivors


def best_first(total: Tensor) -> Tensor:
    """Order of total [rows]: largest first, ties to the smaller index, NaN last. Returns int64 [rows]."""
    is_nan = total.isnan()
    order = torch.where(is_nan, -torch.inf, total).argsort(descending=True, stable=True)
    return order[is_nan[order].to(torch.uint8).argsort(stable=True)]


def _check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cumulative: Tensor,
    question_offsets: Tensor,
    keep: int,
) -> None:
    check_storage("hidden", hidden)
    check_rank("hidden", hidden, "[rows, hidden]")
    check_width("hidden", hidden)
    rows, width = hidden.shape
    check_tensor("weight", weight, (width,), "[hidden]", hidden.dtype, hidden.device)
    if bias is not None:
        check_tensor("bias", bias, (1,), "[1]", hidden.dtype, hidden.device)
    check_tensor("cumulative", cumulative, (rows,), "[rows]", torch.float32, hidden.device)
    check_rank("question_offsets", question_offsets, "[questions + 1]")
    shape = (question_offsets.shape[0],)
    check_tensor("question_offsets", question_offsets, shape, "[questions + 1]", torch.int64, hidden.device)
    if question_offsets.shape[0] == 0:
        raise ValueError("question_offsets must have at least one element, got none")
    if keep < 0:
        raise ValueError(f"keep must not be negative, got {keep}")
    check_inference("score_and_prune", hidden=hidden, weight=weight, bias=bias, cumulative=cumulative)


@torch.library.register_fake("latent_ext::score_and_prune")
def _fake(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cumulative: Tensor,
    question_offsets: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    survivors = question_offsets.new_empty((question_offsets.shape[0] - 1, keep))
    return torch.empty_like(cumulative), torch.empty_like(cumulative), survivors
