"""What reduced weights change: winners and selected accuracy of the shipped model, paired with fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from case import Case, solve_ours
from machine import machine_facts
from shapes import build_shape

from latent_ext.assets import SHIPPED_SPLIT
from latent_ext.evaluation.metrics import correct_flags, estimate
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.search.result import Result

QUESTIONS = 200
RESAMPLES = 10_000


def quality(case: Case) -> dict[str, Any]:
    """Runs the shipped model with the case's weights and with fp32 on the same questions and random numbers.

    Args:
        case: shape "shipped"; its questions are those that are compared.

    Returns:
        `winner_agreement` (share of questions with the very same trajectory chosen) and its 95 % Wilson
        interval, the same for the chosen answer, selected accuracy of both formats, their difference and its
        paired-bootstrap 95 % interval.

    Raises:
        ValueError: for another shape, fp32, or more questions than there are.
    """
    if case.shape != "shipped" or case.weights == "fp32":
        raise ValueError(
            f"quality: got shape {case.shape!r} with weights {case.weights!r}; it compares reduced weights "
            "of the shipped model with fp32"
        )
    shape = build_shape(case.shape, case.questions, case.seed)
    problems = shipped_problems(SHIPPED_SPLIT, case.questions)
    if len(problems) < case.questions:
        raise ValueError(f"questions: got {case.questions}; the split has {len(problems)}")
    golds = [str(problem.answer) for problem in problems]
    exact = solve_ours(replace(case, weights="fp32"), shape)
    reduced = solve_ours(case, shape)
    agreeing = [float(a.chosen == b.chosen) for a, b in zip(exact, reduced, strict=True)]
    agreement = estimate([agreeing])
    answers = estimate([[float(a.answer == b.answer) for a, b in zip(exact, reduced, strict=True)]])
    before, after = correct(exact, golds), correct(reduced, golds)
    difference, interval = paired_bootstrap(before, after, seed=case.seed)
    return {
        "winner_agreement": agreement.mean,
        "winner_agreement_interval": list(agreement.interval),
        "answer_agreement": answers.mean,
        "answer_agreement_interval": list(answers.interval),
        "accuracy_fp32": float(np.mean(before)),
        f"accuracy_{case.weights}": float(np.mean(after)),
        "accuracy_difference": difference,
        "accuracy_difference_interval": list(interval),
        "questions": len(golds),
        "engine": reduced[0].settings["engine"],
        "machine": machine_facts(),
        "settings": case.settings(),
    }


def correct(results: Sequence[Result], golds: Sequence[str]) -> list[float]:
    """1.0 where the chosen trajectory's answer is the gold; what chooses nothing is wrong."""
    return [
        float(result.chosen is not None and correct_flags(result, gold)[result.chosen])
        for result, gold in zip(results, golds, strict=True)
    ]


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """Mean of after - before, and its 95 % percentile interval over resampled questions (Efron 1979)."""
    paired = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(paired), size=(resamples, len(paired)))
    low, high = np.percentile(paired[drawn].mean(axis=1), [2.5, 97.5])
    return float(paired.mean()), (float(low), float(high))
