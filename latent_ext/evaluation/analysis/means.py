"""Means over questions with 95 % intervals, for quantities that are no shares: distances, ranks, cosines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True)
class QuestionMean:
    """A mean over questions.

    Attributes:
        mean: over the questions that have a value; None where none has.
        low, high: ends of the 95 % interval; None with fewer than two questions.
        questions: how many have a value.
    """

    mean: float | None
    low: float | None
    high: float | None
    questions: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with the attributes."""
        return asdict(self)


def mean_over_questions(values: Sequence[float | None]) -> QuestionMean:
    """The mean with a percentile bootstrap interval over questions (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: one per question; None where the quantity does not exist, for example a distance between right
            and wrong trajectories where all are right. The same values give the same interval.

    >>> mean_over_questions([1.0, None, 3.0]).mean
    2.0
    """
    known = np.asarray([value for value in values if value is not None], dtype=np.float64)
    if not np.isfinite(known).all():
        raise ValueError("values: one is not finite; leave it out as None or drop its trajectory first")
    if len(known) == 0:
        return QuestionMean(None, None, None, 0)
    if len(known) == 1:
        return QuestionMean(float(known[0]), None, None, 1)
    drawn = np.random.default_rng(0).integers(0, len(known), size=(_RESAMPLES, len(known)))
    low, high = np.quantile(known[drawn].mean(axis=1), [0.025, 0.975])
    return QuestionMean(float(known.mean()), float(low), float(high), len(known))


def means_by_step(values: Sequence[Sequence[float | None]]) -> list[QuestionMean]:
    """`mean_over_questions` of each step from values[question][step]; shorter questions end sooner."""
    steps = max((len(row) for row in values), default=0)
    return [mean_over_questions([row[t] if t < len(row) else None for row in values]) for t in range(steps)]
