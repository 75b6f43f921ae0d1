"""Adaptive budget: a question draws trajectories in rounds until its vote is settled, and then leaves the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from latent_ext.search.extend import Beliefs, Branch, Extend
from latent_ext.search.result import Trajectory
from latent_ext.search.select import majority_vote, weighted_vote
from latent_ext.search.settle import settled_by_bounds, settled_by_vote

CONFIDENCE = 0.95

# Trajectories of the first round, and what further rounds are multiples of.
_FIRST = 4


@dataclass(frozen=True)
class Adaptive:
    """How long a question goes on. Its trajectories are 0, 1, 2, ... of the fixed run, but for those that it extends.

    Attributes:
        confidence: in (0, 1), see `latent_ext.search.settle`.
        weighted: the scores weigh the votes.
        read: sets a decoded trajectory's text and answer.
        beliefs: (question of the run, its trajectories) -> what the reward says of each one, where it says how sure it
            is; either rule then ends the question, bounds only in favour of the answer that leads the vote. None for
            none.
        extend: continues the best rival in every further round; None to draw new trajectories alone.
        score: (question of the run, its trajectories) gives scores to those that were drawn in this round; None where
            engines score thoughts, or nothing is scored.
    """

    confidence: float
    weighted: bool
    read: Callable[[Trajectory], None]
    beliefs: Beliefs | None = None
    extend: Extend | None = None
    score: Callable[[int, Sequence[Trajectory]], None] | None = None

    def settled(self, question: int, drawn: Sequence[Trajectory]) -> bool:
        """Whether question (number in the run) needs no more than the trajectories `drawn`, whose answers are read."""
        if self.score is not None:
            self.score(question, drawn)
        answers = [trajectory.answer for trajectory in drawn]
        scores = [trajectory.score for trajectory in drawn] if self.weighted else None
        if settled_by_vote(answers, scores, self.confidence):
            return True
        if self.beliefs is None:
            return False
        bounds = [None if one is None else one.bounds for one in self.beliefs(question, drawn)]
        # The vote chooses in the end: bounds that back another answer than it settle nothing.
        return settled_by_bounds(answers, bounds, self._leader(drawn))

    def branch(self, question: int, drawn: Sequence[Trajectory]) -> Branch | None:
        """Where question, which is not settled, goes on; None to draw new trajectories."""
        return None if self.extend is None else self.extend.branch(question, drawn, self._leader(drawn))

    def _leader(self, drawn: Sequence[Trajectory]) -> str | None:
        answers = [trajectory.answer for trajectory in drawn]
        scores = [trajectory.score for trajectory in drawn]
        vote = weighted_vote(answers, scores) if self.weighted else majority_vote(answers)
        return next(iter(vote.votes), None)


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
