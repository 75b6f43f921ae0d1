"""Selection rules. Each takes answers and scores by trajectory and names the chosen trajectory.

Answers are canonical texts; None (no parsable answer) never votes. A score that is None, NaN or infinite is
never selected and carries no weight. Ties always go to the smaller trajectory index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """What a rule decided.

    Attributes:
        chosen: index of the chosen trajectory; None where nothing could be chosen.
        votes: weight of each answer, heaviest first (counts for a majority vote).
    """

    chosen: int | None
    votes: dict[str, float]


def majority_vote(answers: Sequence[str | None], scores: Sequence[float | None] | None = None) -> Selection:
    """The most frequent answer (self-consistency, Wang et al. 2023); a tie goes to the answer seen first.

    The chosen trajectory is the first that gave the winning answer, or, with scores, the best-scored one.

    >>> majority_vote(["4", None, "5", "5"]).chosen
    2
    """
    return _vote(answers, [1.0] * len(answers), scores)


def weighted_vote(answers: Sequence[str | None], scores: Sequence[float | None]) -> Selection:
    """Answers weighted by the softmax, at temperature 1, of the scores of the trajectories that gave one.

    Independent measurements found it above best-of-N with published LatentRMs at large N.

    >>> weighted_vote(["4", "5", "5"], [3.0, 0.0, 0.0]).chosen
    0
    """
    return _vote(answers, softmax_weights(answers, scores), scores)


def weighted_vote_raw(answers: Sequence[str | None], scores: Sequence[float | None]) -> Selection:
    """Answers ranked by the plain sum of the scores of the trajectories that gave them.

    The weighted vote of search-and-learn, made for scores that are probabilities. A LatentRM's scores are logits: a
    negative one counts against its answer, so that where all are negative an answer seen rarely wins. `weighted_vote`
    does not depend on where a score's zero lies.

    >>> weighted_vote_raw(["4", "5", "5"], [0.9, 0.5, 0.6]).votes
    {'5': 1.1, '4': 0.9}
    """
    usable = [
        (n, answers[n], value) for n, score in enumerate(scores) if (value := _finite(score)) is not None
    ]
    ballots: dict[str, list[float]] = {}
    for _, answer, value in usable:
        if answer is not None:
            ballots.setdefault(answer, []).append(value)
    sums = sorted(((a, math.fsum(own)) for a, own in ballots.items()), key=lambda item: -item[1])
    if not sums:
        return Selection(None, {})
    voters = [(value, -n) for n, answer, value in usable if answer == sums[0][0]]
    return Selection(-max(voters)[1], dict(sums))


def softmax_weights(answers: Sequence[str | None], scores: Sequence[float | None]) -> list[float]:
    """Weight of each trajectory's vote in `weighted_vote`: they sum to 1, or are all 0 where nobody may vote."""
    # Only voters enter the softmax: a far better score without an answer must not round all weights to zero.
    pairs = zip(answers, scores, strict=True)
    finite = [None if answer is None else _finite(score) for answer, score in pairs]
    valid = [score for score in finite if score is not None]
    top = max(valid, default=0.0)
    weights = [0.0 if score is None else math.exp(score - top) for score in finite]
    total = math.fsum(weights) or 1.0
    return [weight / total for weight in weights]


def best_of_n(answers: Sequence[str | None], scores: Sequence[float | None]) -> Selection:
    """The trajectory with the largest score (LatentTTS, section 3.3); its answer alone is needed.

    >>> best_of_n([None, "5", None], [0.1, 0.7, 0.3]).chosen
    1
    """
    chosen: int | None = None
    best = -math.inf
    for n, score in enumerate(scores):
        value = _finite(score)
        if value is not None and (chosen is None or value > best):
            chosen, best = n, value
    return Selection(chosen, _vote(answers, [1.0] * len(answers), None).votes)


SELECTORS = {
    "best_of_n": best_of_n,
    "majority": majority_vote,
    "weighted_vote": weighted_vote,
    "weighted_vote_raw": weighted_vote_raw,
}


def _vote(
    answers: Sequence[str | None], weights: Sequence[float], scores: Sequence[float | None] | None
) -> Selection:
    ballots: dict[str, list[float]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None and weight > 0.0:
            ballots.setdefault(answer, []).append(weight)
    # dict order is that of the first vote and sorted() is stable: ties go to the answer that was seen first.
    votes = {answer: math.fsum(ballot) for answer, ballot in ballots.items()}
    votes = dict(sorted(votes.items(), key=lambda item: -item[1]))
    if not votes:
        return Selection(None, {})
    winner = next(iter(votes))
    voters = [n for n, answer in enumerate(answers) if answer == winner and weights[n] > 0.0]
    if scores is not None and any(score is not None for score in scores):
        known = [_finite(score) for score in scores]
        # sort() is stable in reverse too: ties stay in order of the trajectories.
        voters.sort(key=lambda n: value if (value := known[n]) is not None else -math.inf, reverse=True)
    return Selection(voters[0], votes)


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
