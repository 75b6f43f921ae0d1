"""How far apart the trajectories of one question are, thought by thought, and how far each one moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_ext.evaluation.analysis.means import QuestionMean, means_by_step
from latent_ext.evaluation.analysis.pools import ThoughtPool

DISTANCES = ("cosine", "euclidean")
GROUPS = ("all", "right-right", "right-wrong", "wrong-wrong")


def pairwise(points: Tensor, kind: str) -> Tensor:
    """float64 (rows, rows): distances between the rows of `points`, (rows, hidden).

    Cosine distance is 1 minus the cosine, within [0, 2]; a row of zeros is at distance 1 of every other row.
    """
    if kind not in DISTANCES:
        raise ValueError(f"kind: got {kind!r}; allowed are {', '.join(DISTANCES)}")
    points = points.double()
    if kind == "euclidean":
        # The short way by inner products loses all digits of near rows.
        return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    unit = points / points.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    # |u - v|^2 / 2 is 1 - u.v without its cancellation: equal rows are at distance 0 exactly.
    apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
    empty = unit.norm(dim=-1) == 0
    apart[empty] = apart[:, empty] = 1.0
    return apart.fill_diagonal_(0.0)


def pool_distance(pool: ThoughtPool, t: int, kind: str, group: str = "all") -> float | None:
    """Mean distance over all pairs of trajectories in `group` at thought t (0-based); None where there is no pair.

    Args:
        group: "all", "right-right", "right-wrong" or "wrong-wrong", by the trajectories' answers.
    """
    if group not in GROUPS:
        raise ValueError(f"group: got {group!r}; allowed are {', '.join(GROUPS)}")
    points, right = pool.at(t)
    upper = torch.ones(len(points), len(points)).triu(1).bool()
    both, mixed = right[:, None] & right, right[:, None] ^ right
    pairs = {"all": upper, "right-right": both, "right-wrong": mixed, "wrong-wrong": ~both & ~mixed}[group]
    pairs = pairs & upper
    return float(pairwise(points, kind)[pairs].mean()) if bool(pairs.any()) else None


def distances(pools: Sequence[ThoughtPool], kind: str = "cosine", group: str = "all") -> list[QuestionMean]:
    """Mean pairwise distance between the trajectories of a question, per thought, over questions.

    Args:
        pools: one per question.
        kind: "cosine" (1 minus the cosine) or "euclidean" (in units of the thoughts).
        group: which pairs, see `pool_distance`; questions without such a pair do not enter.

    Returns:
        One mean per thought.
    """
    return means_by_step([[pool_distance(p, t, kind, group) for t in range(p.longest)] for p in pools])


def movements(pools: Sequence[ThoughtPool], kind: str = "cosine") -> list[QuestionMean]:
    """Inter-step distance: how far z_{t+1} is from z_t within a trajectory, mean over trajectories and questions.

    Returns:
        T - 1 means; entry t is the move from thought t + 1 to t + 2, counted from 1.
    """
    return means_by_step([[_move(p, t, kind) for t in range(p.longest - 1)] for p in pools])


def _move(pool: ThoughtPool, t: int, kind: str) -> float:
    both = pool.steps > t + 1
    before, after = pool.thoughts[both, t].double(), pool.thoughts[both, t + 1].double()
    return float(row_distance(before, after, kind).mean())


def row_distance(left: Tensor, right: Tensor, kind: str) -> Tensor:
    """float64 (rows,): distance between equal rows of two (rows, hidden) tensors, as `pairwise` measures it."""
    if kind not in DISTANCES:
        raise ValueError(f"kind: got {kind!r}; allowed are {', '.join(DISTANCES)}")
    left, right = torch.broadcast_tensors(left.double(), right.double())
    if kind == "euclidean":
        return (left - right).norm(dim=-1)
    tiny = torch.finfo(torch.float64).tiny
    lengths = left.norm(dim=-1, keepdim=True), right.norm(dim=-1, keepdim=True)
    apart = (left / lengths[0].clamp_min(tiny) - right / lengths[1].clamp_min(tiny)).norm(dim=-1).square() / 2
    return torch.where(((lengths[0] == 0) | (lengths[1] == 0)).squeeze(-1), 1.0, apart)
