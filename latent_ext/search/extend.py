"""Extending: a question that is not settled continues its best rival trajectory from before its first bad thought.

The other half of BetaPRM's adaptive computation (arXiv 2605.15529, "ACA"; what `first_bad` says is the rule of
github.com/JinyuanLi0012/Beta-Binomial-PRM, aca/utils_merge_and_cut.py). A rival answers otherwise than the leading answer,
as in `latent_ext.search.settle`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latent_ext.search.beliefs import Belief
from latent_ext.search.result import Trajectory

# Continuations of a rival in a round (BetaPRM's m).
CONTINUATIONS = 4

# A thought is bad whose mean is, so many deviations lowered, below this chance (BetaPRM's c_cut and p_bad).
_CAUTION, _BAD = 2.0, 0.5

Beliefs = Callable[[int, Sequence[Trajectory]], list[Belief | None]]


@dataclass(frozen=True)
class Branch:
    """Where a question goes on.

    Attributes:
        parent: the trajectory that is continued.
        kept: how many of its thoughts stay, 1 to T - 1.
        number: how many continuations it has from there already.
    """

    parent: int
    kept: int
    number: int


@dataclass(frozen=True)
class Extend:
    """Which trajectory is worth continuing, and from where.

    Attributes:
        beliefs: of a LatentRM that knows how sure it is: rivals are those whose upper bound reaches the lower bound of the
            best trajectory of the leading answer. The cut is before `first_bad`; where that is the first thought already,
            as on questions that are hard throughout, before `first_below` of the means. None: the rival is the trajectory
            with the best score among those that answer otherwise, and the cut is before `first_below` of the scores.
    """

    beliefs: Beliefs | None = None

    def branch(self, question: int, drawn: Sequence[Trajectory], leader: str | None) -> Branch | None:
        """Where question (number in the run) goes on; None where new trajectories are as good.

        That is where there is no rival, where nothing is wrong with it, and where its first thought is bad already.

        Args:
            drawn: its trajectories so far, with answers and scores.
            leader: the answer that leads the vote; None where there is none.
        """
        answers = [one.answer for one in drawn]
        kept: int | None = None
        if self.beliefs is None:
            scores = [None if one.score is None else (one.score, one.score) for one in drawn]
            parent = rival(answers, scores, leader, overlapping=False)
            if parent is not None:
                scored = {
                    one.index: one.step_scores for one in drawn if one.score is not None and one.step_scores
                }
                kept = first_below(scored[parent], list(scored.values()))
        else:
            beliefs = self.beliefs(question, drawn)
            bounds = [None if one is None else one.bounds for one in beliefs]
            parent = rival(answers, bounds, leader, overlapping=True)
            if parent is not None and (belief := beliefs[parent]) is not None:
                means = [one.means for one in beliefs if one is not None]
                kept = first_bad(belief.means, belief.deviations) or first_below(belief.means, means)
        if parent is None or not kept:
            return None
        return Branch(parent, kept, sum((one.parent, one.inherited) == (parent, kept) for one in drawn))


def rival(
    answers: Sequence[str | None],
    bounds: Sequence[tuple[float, float] | None],
    leader: str | None,
    *,
    overlapping: bool,
) -> int | None:
    """The trajectory with the largest upper bound among those that answer otherwise; ties to the smaller index.

    Args:
        answers: canonical answers by trajectory; one without an answer is no rival.
        bounds: (lower, upper) by trajectory; None for one that cannot be selected.
        leader: the leading answer; None has no rival.
        overlapping: only rivals whose upper bound reaches the lower bound of the leader's best trajectory.

    >>> rival(["4", "5", "6"], [(0.5, 0.9), (0.2, 0.6), (0.1, 0.4)], "4", overlapping=True)
    1
    >>> rival(["4", "5", "6"], [(0.7, 0.9), (0.2, 0.6), (0.1, 0.4)], "4", overlapping=True) is None
    True
    """
    if leader is None:
        return None
    known = [
        (n, answer, bound)
        for n, (answer, bound) in enumerate(zip(answers, bounds, strict=True))
        if bound is not None and answer is not None
    ]
    least = float("-inf")
    leading = [bound for _, answer, bound in known if answer == leader]
    if overlapping and leading:
        least, _ = max(leading, key=sum)
    rivals = [(bound[1], -n) for n, answer, bound in known if answer != leader and bound[1] >= least]
    return -max(rivals)[1] if rivals else None


def first_bad(means: Sequence[float], deviations: Sequence[float]) -> int:
    """The first thought, from 0, with mean - 2 deviations below 0.5; where none is, the one that is least sure.

    >>> first_bad([0.9, 0.8, 0.5], [0.1, 0.2, 0.1]), first_bad([0.9, 0.9, 0.9], [0.01, 0.02, 0.01])
    (1, 1)
    """
    for t, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        if mean - _CAUTION * deviation < _BAD:
            return t
    return max(range(len(deviations)), key=deviations.__getitem__)


def first_below(scores: Sequence[float], of_all: Sequence[Sequence[float]]) -> int | None:
    """The first thought, from 0, whose score is below the mean of all trajectories there; None where none is.

    Contrastive training compares the trajectories of a question, thought by thought: where the zero of a step's scores lies
    it leaves open, so that neither a chance nor the step before says which of them are bad.

    Args:
        scores: step scores of the trajectory.
        of_all: those of all trajectories of its question, itself among them.

    >>> first_below([1.0, -3.0], [[1.0, -3.0], [0.0, -2.0]]), first_below([1.0, -2.0], [[1.0, -2.0], [0.0, -3.0]])
    (1, None)
    """
    means = (statistics.fmean(of_step) for of_step in zip(*of_all, strict=True))
    return next((t for t, (own, mean) in enumerate(zip(scores, means, strict=True)) if own < mean), None)
