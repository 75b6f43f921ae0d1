"""Diversity against coverage while p or sigma grows: more noise spreads trajectories and, at some point, breaks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from latent_ext.evaluation.analysis.distances import pool_distance
from latent_ext.evaluation.analysis.means import QuestionMean, mean_over_questions
from latent_ext.evaluation.analysis.pools import sample_pools
from latent_ext.evaluation.metrics import Estimate, correct_flags, estimate, pass_at_k, selected_accuracy
from latent_ext.models import LatentModel
from latent_ext.samplers import as_sampler
from latent_ext.search import majority_vote


@dataclass(frozen=True)
class SweepPoint:
    """One sampler of a sweep.

    Attributes:
        sampler: its text form.
        diversity: mean pairwise cosine distance between a question's trajectories, averaged over thoughts.
        distinct: mean number of different answers among a question's N trajectories.
        coverage: share of questions with a right answer among N.
        single: share of right trajectories (pass@1).
        majority: accuracy of the majority vote over N.
    """

    sampler: str
    diversity: QuestionMean
    distinct: QuestionMean
    coverage: Estimate
    single: Estimate
    majority: Estimate


def diversity_sweep(
    model: LatentModel,
    questions: Sequence[str],
    golds: Sequence[str],
    samplers: Sequence[str],
    *,
    n: int = 16,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> list[SweepPoint]:
    """Samples the same questions with every sampler and measures diversity and coverage.

    Args:
        model: generator.
        questions, golds: one gold number per question.
        samplers: text forms such as "dropout:0.1" or "noise:0.6:relative".
        n: trajectories per question.
        progress: called with (trajectories done, trajectories in all), over all samplers.
        settings: further arguments of `latent_ext.solve`.

    Returns:
        One point per sampler, in order.

    Raises:
        ValueError: naming the argument, before anything is computed.
    """
    if not samplers or not questions:
        raise ValueError(
            f"samplers, questions: got {len(samplers)} and {len(questions)}; at least 1 each is needed"
        )
    for sampler in samplers:
        as_sampler(sampler)
    each = n * len(questions)
    points = []
    for place, sampler in enumerate(samplers):

        def part(done: int, total: int, before: int = place * each) -> None:
            if progress is not None:
                progress(before + done, each * len(samplers))

        results, pools = sample_pools(
            model, questions, golds, n=n, sampler=sampler, progress=part, **settings
        )
        spread = []
        for pool in pools:
            steps = [pool_distance(pool, t, "cosine") for t in range(pool.longest)]
            known = [value for value in steps if value is not None]
            spread.append(sum(known) / len(known) if known else None)
        pairs = list(zip(results, golds, strict=True))
        right = [sum(correct_flags(r, g)) for r, g in pairs]
        answers = [float(len({a for a in r.answers if a is not None})) for r in results]
        points.append(
            SweepPoint(
                sampler,
                mean_over_questions(spread),
                mean_over_questions(answers),
                estimate([[pass_at_k(n, c, n) for c in right]]),
                estimate([[pass_at_k(n, c, 1) for c in right]]),
                estimate([[selected_accuracy(majority_vote, r, g, n) for r, g in pairs]]),
            )
        )
    return points
