"""When a question needs no further trajectory: the vote is settled, or one trajectory is beyond doubt the best.

The vote: Adaptive-Consistency (Aggarwal et al., 2023, "Let's sample step by step", arXiv 2305.11860, section 3, the Beta
criterion). Between the leading answer and its runner-up the share of the leader has the posterior Beta(v1 + 1, v2 + 1);
sampling stops when it is above one half with at least the confidence asked for. The bounds: BetaPRM's adaptive
computation (arXiv 2605.15529): the best trajectory's lower bound is above the upper bound of every one with another
answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from latent_ext.search.select import majority_vote, softmax_weights


def settled_by_vote(
    answers: Sequence[str | None], scores: Sequence[float | None] | None, confidence: float
) -> bool:
    """Whether further votes are unlikely to change the leading answer.

    Args:
        answers: canonical answers by trajectory; None does not vote.
        scores: weigh the votes as `weighted_vote` does; None (default of a run without a reward) counts them. Weighted
            votes are brought to Kish's effective number of voters, (sum w)^2 / sum w^2: a vote that one trajectory
            decides counts as one.
        confidence: in (0, 1).

    >>> settled_by_vote(["4"] * 4, None, 0.95), settled_by_vote(["4"] * 4 + ["5"], None, 0.95)
    (True, False)
    """
    return chance_of_lead(*leading_votes(answers, scores)) >= confidence


def leading_votes(
    answers: Sequence[str | None], scores: Sequence[float | None] | None
) -> tuple[float, float]:
    """Votes of the leading answer and of the runner-up, 0 where there is none."""
    if scores is None:
        votes = sorted(majority_vote(answers).votes.values(), reverse=True)
    else:
        weights = softmax_weights(answers, scores)
        square = math.fsum(weight * weight for weight in weights)
        voters = 1.0 / square if square > 0.0 else 0.0
        shares: dict[str, float] = {}
        for answer, weight in zip(answers, weights, strict=True):
            if answer is not None:
                shares[answer] = shares.get(answer, 0.0) + weight
        votes = sorted((voters * share for share in shares.values()), reverse=True)
    first, second, *_ = [*votes, 0.0, 0.0]
    return first, second


def chance_of_lead(leader: float, runner_up: float) -> float:
    """P(X > 1/2) for X ~ Beta(leader + 1, runner_up + 1); one half where nobody has voted.

    >>> chance_of_lead(0, 0), chance_of_lead(4, 0)
    (0.5, 0.96875)
    """
    return _incomplete_beta_at_half(runner_up + 1.0, leader + 1.0)


def settled_by_bounds(
    answers: Sequence[str | None], bounds: Sequence[tuple[float, float] | None], leader: str | None
) -> bool:
    """Whether the lower bound of the best trajectory is above the upper bound of all that answer something else.

    Args:
        answers: canonical answers by trajectory.
        bounds: (lower, upper) by trajectory; None for one that cannot be selected.
        leader: the answer that the best trajectory must have given.

    >>> settled_by_bounds(["4", "5"], [(0.7, 0.9), (0.2, 0.6)], "4")
    True
    >>> settled_by_bounds(["4", "5"], [(0.5, 0.9), (0.2, 0.6)], "4")
    False
    """
    known = [
        (sum(bound) / 2.0, bound, answer)
        for answer, bound in zip(answers, bounds, strict=True)
        if bound is not None and answer is not None
    ]
    if not known:
        return False
    _, (lower, _), best = max(known, key=lambda entry: entry[0])
    return best == leader and all(upper < lower for _, (_, upper), answer in known if answer != best)


def _incomplete_beta_at_half(a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b) at x = 1/2, by its continued fraction (DLMF 8.17.22)."""
    if a > b:
        # The fraction converges fast for x < (a + 1) / (a + b + 2).
        return 1.0 - _incomplete_beta_at_half(b, a) if a != b else 0.5
    if a == b:
        return 0.5
    return 1.0 - _fraction(b, a) if (a + 1.0) / (a + b + 2.0) <= 0.5 else _fraction(a, b)


def _fraction(a: float, b: float) -> float:
    x = 0.5
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + (a + b) * math.log(x)) / a
    # Lentz's evaluation; tiny keeps denominators from vanishing.
    tiny, c, d = 1e-300, 1.0, 0.0
    value = 1.0
    for m in range(400):
        if m == 0:
            step = 1.0
        elif m % 2 == 0:
            k = m // 2
            step = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        else:
            k = m // 2
            step = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        d = 1.0 / (1.0 + step * d or tiny)
        c = 1.0 + step / c or tiny
        factor = c * d
        value *= factor
        if abs(factor - 1.0) < 1e-14 and m > 0:
            break
    return front * (value - 1.0)
