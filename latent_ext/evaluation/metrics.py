"""Metrics of a pool of sampled answers, each with the uncertainty that belongs to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latent_ext.models.answers import canonical_number
from latent_ext.search.result import Result
from latent_ext.search.select import Selection

SelectionRule = Callable[[Sequence[str | None], Sequence[float | None]], Selection]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that k of the n samples, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1), as a product that does not
    overflow. With k = n it is coverage.

    Raises:
        ValueError: unless 0 <= correct <= n and 1 <= k <= n.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 4)
    (0.25, 1.0)
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct: got {correct}; 0 to n = {n} are allowed")
    if not 1 <= k <= n:
        raise ValueError(f"k: got {k}; 1 to n = {n} are allowed")
    miss = 1.0
    for i in range(k):
        miss *= max(0.0, (n - correct - i) / (n - i))
    return 1.0 - miss


def correct_flags(result: Result, gold: str) -> list[bool]:
    """Whether each trajectory's answer equals the gold, as exact numbers: "18.0" is 18, and 0 counts."""
    target = canonical_number(gold)
    if target is None:
        raise ValueError(f"gold: got {gold!r}; a number is needed")
    return [answer == target for answer in result.answers]


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its standard error.

    Attributes:
        mean: in [0, 1].
        standard_error: over problems, after averaging a problem over seeds, so it covers both; NaN for
            one problem.
        seed_spread: standard deviation of the mean from seed to seed; None with one seed.
        problems: how many.
    """

    mean: float
    standard_error: float
    seed_spread: float | None
    problems: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval with the effective number of problems that the standard error implies.

        Unlike mean +- 1.96 standard errors it does not shrink to a point where every problem was solved.
        """
        spread = self.mean * (1.0 - self.mean)
        known = self.standard_error > 0.0 and spread > 0.0
        # One over the number of problems: the number itself overflows where the mean is tiny.
        share = self.standard_error * (self.standard_error / spread) if known else 1.0 / self.problems
        z2 = 1.96**2
        centre = (self.mean + z2 * share / 2) / (1 + z2 * share)
        half = 1.96 * math.sqrt(spread * share + z2 * share * share / 4) / (1 + z2 * share)
        return max(0.0, centre - half), min(1.0, centre + half)


def estimate(values: Sequence[Sequence[float]]) -> Estimate:
    """Estimate from values[seed][problem]; the problems are the same for every seed.

    >>> estimate([[1.0, 0.0], [1.0, 1.0]]).mean
    0.75
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(
            f"values: got shape {table.shape}; [seeds, problems] with at least one of each is needed"
        )
    by_problem = table.mean(axis=0)
    problems, seeds = table.shape[1], table.shape[0]
    error = float(by_problem.std(ddof=1) / math.sqrt(problems)) if problems > 1 else float("nan")
    spread = float(table.mean(axis=1).std(ddof=1)) if seeds > 1 else None
    return Estimate(float(by_problem.mean()), error, spread, problems)


def selected_accuracy(
    rule: SelectionRule,
    result: Result,
    gold: str,
    k: int,
) -> float:
    """Accuracy of a selection rule at k trajectories, averaged over the disjoint groups of k among the N.

    Averaging over groups uses the whole pool; group i holds trajectories i*k .. i*k + k - 1, and for k = N it
    is the rule itself. What does not choose an answer is wrong.
    """
    return selected_share(rule, result.answers, result.scores, correct_flags(result, gold), k)


def selected_share(
    rule: SelectionRule,
    answers: Sequence[str | None],
    scores: Sequence[float | None],
    correct: Sequence[bool],
    k: int,
) -> float:
    """`selected_accuracy` of answers, scores and flags by trajectory.

    >>> from latent_ext.search import majority_vote
    >>> selected_share(majority_vote, ["4", "5", "5", "5"], [None] * 4, [False, True, True, True], 2)
    0.5
    """
    if not 1 <= k <= len(correct):
        raise ValueError(f"k: got {k}; 1 to {len(correct)} (the run's trajectories) are allowed")
    hits = []
    for start in range(0, len(correct) - k + 1, k):
        chosen = rule(answers[start : start + k], scores[start : start + k]).chosen
        hits.append(chosen is not None and correct[start + chosen])
    return sum(hits) / len(hits)


def within_question_auc(scores: Sequence[float | None], correct: Sequence[bool]) -> float | None:
    """Chance that a question's correct trajectory outscores a wrong one, ties half; None if all agree.

    >>> within_question_auc([2.0, 1.0, 0.0], [True, False, True])
    0.5
    """
    usable = [(score, flag) for score, flag in zip(scores, correct, strict=True) if score is not None]
    right = np.array([score for score, flag in usable if flag])
    wrong = np.array([score for score, flag in usable if not flag])
    if len(right) == 0 or len(wrong) == 0:
        return None
    difference = right[:, None] - wrong[None, :]
    return float(np.mean(np.where(difference > 0, 1.0, np.where(difference == 0, 0.5, 0.0))))
