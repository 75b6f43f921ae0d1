"""Pools of trajectories with their thoughts, ready to be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent_ext.models import LatentModel
from latent_ext.models.answers import canonical_number
from latent_ext.search import Result, solve


@dataclass(frozen=True)
class ThoughtPool:
    """The trajectories of one question that have finite thoughts.

    Attributes:
        thoughts: float32 (N, T, hidden) on the CPU; NaN after the last thought of a trajectory that stops sooner.
        steps: int64 (N,), thoughts of each trajectory.
        correct: bool (N,), whether its answer is the gold.
        noise_free: float32 (T, hidden), the deterministic trajectory of the same question; None where not asked for.
        left_out: trajectories that are not here because a thought of theirs is not finite.
    """

    thoughts: Tensor
    steps: Tensor
    correct: Tensor
    noise_free: Tensor | None = None
    left_out: int = 0

    def __post_init__(self) -> None:
        n, longest = self.thoughts.shape[:2] if self.thoughts.dim() == 3 else (-1, -1)
        if n < 0 or self.steps.shape != (n,) or self.correct.shape != (n,):
            raise ValueError(
                f"thoughts, steps, correct: got shapes {tuple(self.thoughts.shape)}, {tuple(self.steps.shape)}, "
                f"{tuple(self.correct.shape)}; (N, T, hidden), (N,), (N,) are needed"
            )
        if n and not 0 <= int(self.steps.min()) <= int(self.steps.max()) <= longest:
            raise ValueError(f"steps: got {self.steps.tolist()}; 0 to T = {longest} are allowed")

    def at(self, t: int) -> tuple[Tensor, Tensor]:
        """Thought t (0-based) of the trajectories that have it, float64 (rows, hidden), and their flags, bool (rows,)."""
        alive = self.steps > t
        return self.thoughts[alive, t].double(), self.correct[alive]

    @property
    def longest(self) -> int:
        """Thoughts of the longest trajectory."""
        return int(self.steps.max()) if len(self.steps) else 0


def pool_of(result: Result, gold: str | None, noise_free: Result | None = None) -> ThoughtPool:
    """The pool in a result of ``solve(..., return_thoughts=True, decode="all")``.

    Args:
        result: sampled trajectories.
        gold: right answer; None counts every trajectory as wrong.
        noise_free: result of the same question with ``sampler="none", n=1``, with thoughts.

    Raises:
        ValueError: if a result has no thoughts or its answers were not decoded.
    """
    target = None if gold is None else canonical_number(gold)
    kept: list[Tensor] = []
    flags: list[bool] = []
    for trajectory in result.trajectories:
        thoughts = _thoughts(result, trajectory.index)
        if trajectory.text is None:
            raise ValueError("result: its answers were not decoded; give solve(decode='all')")
        if bool(torch.isfinite(thoughts).all()):
            kept.append(thoughts)
            flags.append(target is not None and trajectory.answer == target)
    steps = torch.tensor([len(thoughts) for thoughts in kept], dtype=torch.int64)
    hidden = _thoughts(result, 0).shape[-1]
    longest = int(steps.max()) if kept else 0
    padded = torch.full((len(kept), longest, hidden), float("nan"))
    for row, thoughts in enumerate(kept):
        padded[row, : len(thoughts)] = thoughts
    base = None if noise_free is None else _thoughts(noise_free, 0)
    left_out = len(result.trajectories) - len(kept)
    return ThoughtPool(padded, steps, torch.tensor(flags, dtype=torch.bool), base, left_out)


def sample_pools(
    model: LatentModel,
    questions: Sequence[str],
    golds: Sequence[str | None],
    *,
    n: int,
    noise_free: Sequence[Result] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> tuple[list[Result], list[ThoughtPool]]:
    """Samples N trajectories per question and keeps their thoughts.

    Args:
        model: generator.
        questions, golds: one gold per question; None where it is not known.
        n: trajectories per question.
        noise_free: results of the deterministic trajectories, so that `ThoughtPool.noise_free` is set.
        progress: called with (trajectories done, trajectories in all).
        settings: further arguments of `latent_ext.solve`, such as ``sampler`` and ``seed``.

    Returns:
        The results, and one pool per question.

    Raises:
        ValueError: as `solve`, or if the golds do not match the questions.
    """
    if len(golds) != len(questions):
        raise ValueError(f"golds: got {len(golds)} for {len(questions)} questions; one each is needed")
    results = solve(
        model, list(questions), n=n, decode="all", return_thoughts=True, progress=progress, **settings
    )
    bases: Sequence[Result | None] = noise_free if noise_free is not None else [None] * len(results)
    pools = [pool_of(r, g, base) for r, g, base in zip(results, golds, bases, strict=True)]
    return results, pools


def _thoughts(result: Result, index: int) -> Tensor:
    thoughts = result.trajectories[index].thoughts
    if thoughts is None:
        raise ValueError("result: it has no thoughts; give solve(return_thoughts=True)")
    return thoughts.detach().to("cpu", torch.float32)
