"""Effective rank: over how many directions thoughts spread."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_ext.evaluation.analysis.means import QuestionMean, means_by_step
from latent_ext.evaluation.analysis.pools import ThoughtPool


def effective_rank(points: Tensor, *, centred: bool = True) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007, definition 1).

    Args:
        points: (rows, hidden).
        centred: take the mean off first, so that what all rows share is no direction.

    Returns:
        1 to min(rows, hidden); 0.0 where all singular values are zero, for example of equal rows, centred.

    >>> effective_rank(torch.eye(4), centred=False)
    4.0
    """
    if points.dim() != 2 or points.numel() == 0:
        raise ValueError(f"points: got shape {tuple(points.shape)}; (rows, hidden), not empty, is needed")
    points = points.double()
    size = float(points.abs().max())
    if centred:
        points = points - points.mean(dim=0)
    values = torch.linalg.svdvals(points)
    # What rounding leaves of equal rows is no spread.
    floor = size * max(points.shape) * torch.finfo(torch.float64).eps
    values = values[values > floor]
    if len(values) == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()).round(decimals=12))


def rank_within(pools: Sequence[ThoughtPool]) -> list[QuestionMean]:
    """Effective rank of a question's N trajectories around their mean, per thought, over questions."""
    return means_by_step([[_rank_at(pool, t) for t in range(pool.longest)] for pool in pools])


def rank_across(pools: Sequence[ThoughtPool]) -> list[float]:
    """Effective rank of the noise-free thoughts of all questions, per thought: how many directions the task uses.

    Raises:
        ValueError: if a pool has no noise-free trajectory.
    """
    bases = []
    for pool in pools:
        if pool.noise_free is None:
            raise ValueError("pools: one has no noise-free trajectory; give sample_pools(noise_free=)")
        bases.append(pool.noise_free)
    longest = max((len(base) for base in bases), default=0)
    return [effective_rank(torch.stack([base[t] for base in bases if len(base) > t])) for t in range(longest)]


def _rank_at(pool: ThoughtPool, t: int) -> float | None:
    points, _ = pool.at(t)
    return effective_rank(points) if len(points) > 1 else None
