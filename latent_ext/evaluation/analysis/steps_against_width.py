"""Latent steps T against width N at equal compute: is a longer thought or one more trajectory the better buy?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latent_ext.evaluation.metrics import Estimate, correct_flags, estimate, pass_at_k, selected_accuracy
from latent_ext.models import LatentModel
from latent_ext.search import Result, majority_vote, solve

_PILOT = 4


@dataclass(frozen=True)
class Budget:
    """What a budget of passes buys at one T, and what it reaches.

    Attributes:
        thoughts: T.
        n: trajectories that the budget pays for.
        passes: passes through the body per question that N trajectories took on average, counted afterwards.
        greedy: accuracy of the noise-free answer at this T.
        single: share of right trajectories (pass@1).
        coverage: share of questions with a right answer among N.
        majority: accuracy of the majority vote over N.
    """

    thoughts: int
    n: int
    passes: float
    greedy: Estimate
    single: Estimate
    coverage: Estimate
    majority: Estimate


def equal_compute(budget: float, passes_each: float) -> int:
    """Trajectories that `budget` passes through the body pay for at `passes_each`, at least 1.

    A trajectory takes one pass per thought (the first comes from the prompt's last token), one over the last thought,
    one over the end token, and one per answer token but the last. The prompt, read once, is the same for every N and T.

    >>> equal_compute(160, 10.0)
    16
    """
    return max(1, round(budget / passes_each))


def steps_against_width(
    model: LatentModel,
    questions: Sequence[str],
    golds: Sequence[str],
    lengths: Sequence[int],
    *,
    budget: int,
    sampler: str,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> list[Budget]:
    """Runs the model with another number of thoughts T, and with as many trajectories as the budget then pays for.

    A model that was trained with one T is off its training distribution at every other; `Budget.greedy` shows what that
    costs, or gains.

    Args:
        model: generator whose family has a fixed T.
        questions, golds: one gold number per question.
        lengths: the numbers of thoughts to try.
        budget: passes through the body per question, prompt apart.
        sampler: text form.
        progress: called with (lengths done, lengths in all).
        settings: further arguments of `latent_ext.solve`.

    Returns:
        One entry per length.

    Raises:
        ValueError: naming the argument, before anything is computed.
    """
    for length in lengths:
        if not isinstance(length, int) or length < 1:
            raise ValueError(f"lengths: got {length!r}; whole numbers of thoughts >= 1 are needed")
    if budget < 1:
        raise ValueError(f"budget: got {budget}; at least 1 pass is needed")
    rows = []
    for place, length in enumerate(lengths):
        longer: Any = replace(model, family=replace(model.family, latent_length=length))  # type: ignore[type-var]
        common = {"decode": "all", **settings}
        greedy = solve(longer, list(questions), n=1, sampler="none", **common)
        # Answers of sampled thoughts may be longer: what a trajectory costs is read off the first few of the N.
        pilot = solve(longer, list(questions), n=_PILOT, sampler=sampler, **common)
        n = equal_compute(budget, _mean([passes(result) for result in pilot]) / _PILOT)
        results = solve(longer, list(questions), n=n, sampler=sampler, **common)
        pairs = list(zip(results, golds, strict=True))
        right = [sum(correct_flags(r, g)) for r, g in pairs]
        rows.append(
            Budget(
                length,
                n,
                _mean([passes(result) for result in results]),
                estimate([[float(correct_flags(r, g)[0]) for r, g in zip(greedy, golds, strict=True)]]),
                estimate([[pass_at_k(n, c, 1) for c in right]]),
                estimate([[pass_at_k(n, c, n) for c in right]]),
                estimate([[selected_accuracy(majority_vote, r, g, n) for r, g in pairs]]),
            )
        )
        if progress is not None:
            progress(place + 1, len(lengths))
    return rows


def passes(result: Result) -> float:
    """Passes through the body that a result's decoded trajectories took, prompt apart."""
    return sum((t.steps or 0) + 1 + max(len(t.tokens or ()), 1) for t in result.trajectories)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
