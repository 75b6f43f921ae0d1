"""Differences between two ways of answering the same questions, with the uncertainty that belongs to them.

The unit of resampling is the question, with its average over the seeds. Random numbers are functions of (seed, question
key), so seeds have no effect that questions share, and the spread of such averages over questions holds both parts:
which questions were asked, and what was drawn for them (Efron and Tibshirani 1993, section 8.3, clusters as units).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
LEVEL = 0.95
POWER = 0.80
_BLOCK = 500
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Difference:
    """A mean paired difference.

    Attributes:
        mean: in [-1, 1] for shares.
        low, high: 95 % interval.
        detectable: smallest true difference that as many questions and seeds as these show in 80 % of such runs.
        problems: how many questions.
        seeds: how many pools each question's values were averaged over.
    """

    mean: float
    low: float
    high: float
    detectable: float
    problems: int
    seeds: int

    @property
    def reading(self) -> str:
        """ "gain", "loss", or "no difference shown" where the interval covers 0."""
        if self.low > 0.0:
            return "gain"
        return "loss" if self.high < 0.0 else "no difference shown"


def paired_differences(differences: NDArray[np.float64], seeds: int) -> list[Difference]:
    """Mean of each column with its bootstrap interval (BCa: Efron 1987), all columns on the same resamples.

    Args:
        differences: [questions, comparisons], each averaged over the seeds.
        seeds: how many they were averaged over.

    Returns:
        One per comparison. The same numbers give the same interval wherever it is computed. A column that is 0
        throughout has no spread to resample: its interval is the one in which the share of questions that differ lies
        when none of them did (3 / questions, the rule of three).

    Raises:
        ValueError: unless there is at least 1 question and all values are finite.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or not np.isfinite(table).all():
        raise ValueError(
            f"differences: got shape {table.shape}; finite [questions, comparisons] with a question are needed"
        )
    questions = table.shape[0]
    means = table.mean(axis=0)
    drawn = np.concatenate([counts @ table / questions for counts in _resamples(questions)])
    listed = []
    for column, mean in enumerate(means.tolist()):
        low, high = _bca(table[:, column], drawn[:, column])
        spread = float(table[:, column].std(ddof=1)) if questions > 1 else math.inf
        error = spread / math.sqrt(questions)
        detectable = min(1.0, detectable_difference(error) or high)
        listed.append(Difference(mean, low, high, detectable, questions, seeds))
    return listed


def detectable_difference(standard_error: float) -> float:
    """Smallest true difference that a two-sided 5 % test finds with 80 % power: (1.96 + 0.84) standard errors."""
    return (_Z + _NORMAL.inv_cdf(POWER)) * standard_error


def _resamples(questions: int) -> Iterator[NDArray[np.float64]]:
    """Blocks [resamples, questions]: how often each question was drawn. A function of the number of questions."""
    for block in range(RESAMPLES // _BLOCK):
        # Counter-based, key and counter fixed: the raw words are Philox4x64's, whatever release of numpy draws them.
        words = np.random.Philox(key=questions, counter=[0, 0, 0, block]).random_raw(_BLOCK * questions)
        places = ((words >> np.uint64(32)) * np.uint64(questions)) >> np.uint64(32)
        rows = np.repeat(np.arange(_BLOCK), questions) * questions
        counts = np.bincount(rows + places.astype(np.int64), minlength=_BLOCK * questions)
        yield counts.reshape(_BLOCK, questions).astype(np.float64)


def _bca(values: NDArray[np.float64], drawn: NDArray[np.float64]) -> tuple[float, float]:
    mean = float(values.mean())
    spread = values - mean
    squares = float((spread**2).sum())
    if squares == 0.0:
        # -log(0.05) / questions, which 3 / questions rounds.
        beyond = min(1.0, -math.log(1 - LEVEL) / len(values))
        return max(-1.0, mean - beyond), min(1.0, mean + beyond)
    # Rounding makes resamples that equal the mean differ from it in the last bits.
    close = np.isclose(drawn, mean, rtol=0.0, atol=1e-12)
    below = float(((drawn < mean) & ~close).mean() + 0.5 * close.mean())
    bias = _NORMAL.inv_cdf(min(max(below, 1 / len(drawn)), 1 - 1 / len(drawn)))
    acceleration = float((spread**3).sum()) / (6.0 * squares**1.5)
    levels = []
    for z in (-_Z, _Z):
        moved = bias + z
        levels.append(_NORMAL.cdf(bias + moved / (1.0 - acceleration * moved)))
    low, high = np.quantile(drawn, levels).tolist()
    return low, high
