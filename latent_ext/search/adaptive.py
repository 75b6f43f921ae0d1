"""Adaptive budget: a question draws trajectories in rounds until its vote is settled, and then leaves the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.reliability import value_bounds
from latent_ext.search.result import Trajectory
from latent_ext.search.select import majority_vote, weighted_vote
from latent_ext.search.settle import settled_by_bounds, settled_by_vote

CONFIDENCE = 0.95

# Trajectories of the first round, and what further rounds are multiples of.
_FIRST = 4

Bounds = Callable[[int, Sequence[Trajectory]], list[tuple[float, float] | None]]


@dataclass(frozen=True)
class Adaptive:
    """How long a question goes on. Which trajectories it draws is no decision: they are 0, 1, 2, ... of the fixed run.

    Attributes:
        confidence: in (0, 1), see `latent_ext.search.settle`.
        weighted: the scores weigh the votes.
        read: sets a decoded trajectory's text and answer.
        bounds: (question of the run, its trajectories) -> (lower, upper) of each one's value, where the reward says how
            sure it is; either rule then ends the question, bounds only in favour of the answer that leads the vote. None
            for none.
    """

    confidence: float
    weighted: bool
    read: Callable[[Trajectory], None]
    bounds: Bounds | None = None

    def settled(self, question: int, drawn: Sequence[Trajectory]) -> bool:
        """Whether question (number in the run) needs no more than the trajectories `drawn`, whose answers are read."""
        answers = [trajectory.answer for trajectory in drawn]
        scores = [trajectory.score for trajectory in drawn] if self.weighted else None
        if settled_by_vote(answers, scores, self.confidence):
            return True
        if self.bounds is None:
            return False
        # The vote chooses in the end: bounds that back another answer than it settle nothing.
        vote = majority_vote(answers) if scores is None else weighted_vote(answers, scores)
        leader = next(iter(vote.votes), None)
        return settled_by_bounds(answers, self.bounds(question, drawn), leader)


def rounds(n: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of trajectory numbers up to n: 4 first, then half as many again as there are, in fours.

    >>> [last for _, last in rounds(64)]
    [4, 8, 12, 16, 24, 36, 52, 64]
    """
    first = 0
    while first < n:
        more = max(_FIRST, first // 2 // _FIRST * _FIRST)
        last = min(n, first + more)
        yield first, last
        first = last


class RewardBounds:
    """`Adaptive.bounds` from a LatentRM's own reliability; every trajectory is read once.

    Args:
        reward: that `latent_ext.rewards.reliability.is_reliable`.
        prompts: int64 [length] ids of the run's questions.
        keep_thoughts: leave trajectories their thoughts once they are read.
    """

    def __init__(self, reward: LatentRM, prompts: Sequence[Tensor], *, keep_thoughts: bool) -> None:
        self.reward, self.prompts, self.keep_thoughts = reward, prompts, keep_thoughts
        self._known: dict[int, list[tuple[float, float] | None]] = {}

    def __call__(self, question: int, drawn: Sequence[Trajectory]) -> list[tuple[float, float] | None]:
        known = self._known.setdefault(question, [])
        fresh = drawn[len(known) :]
        # Rows that end their thoughts by themselves differ in length; those of one length are read together.
        by_length: dict[int, list[tuple[int, Tensor]]] = {}
        for place, one in enumerate(fresh):
            if one.error is None and one.thoughts is not None and len(one.thoughts):
                by_length.setdefault(len(one.thoughts), []).append((place, one.thoughts))
        found: dict[int, tuple[float, float]] = {}
        for listed in by_length.values():
            places, thoughts = zip(*listed, strict=True)
            low, high = value_bounds(self.reward, self.prompts[question], torch.stack(thoughts))
            found.update(zip(places, zip(low.tolist(), high.tolist(), strict=True), strict=True))
        for place, one in enumerate(fresh):
            known.append(found.get(place))
            if not self.keep_thoughts:
                one.thoughts = None
        return known
