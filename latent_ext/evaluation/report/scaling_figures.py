"""Accuracy against the number of trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latent_ext.evaluation.report.canvas import Figure
from latent_ext.evaluation.report.drawing import end_labels, line, log_counts, percent, reference
from latent_ext.evaluation.report.palette import METHODS, series
from latent_ext.evaluation.report.run_files import Run
from latent_ext.evaluation.shares import COVERAGE

_COLUMNS = ("dataset", "arm", "method", "n", "accuracy", "low", "high")


def scaling_figures(run: Run) -> list[Figure]:
    """One figure per dataset and arm that is a pool: every rule and coverage against N."""
    figures = []
    for dataset in run.datasets:
        for arm in run.arms:
            curves = [c for c in run.summary["curves"] if (c["dataset"], c["arm"]) == (dataset, arm)]
            if curves:
                figures.append(_scaling(dataset, arm, curves, greedy_accuracy(run, dataset)))
    return figures


def coverage_figures(run: Run) -> list[Figure]:
    """One figure per dataset: coverage of every arm against N."""
    figures = []
    for dataset in run.datasets:
        curves = [c for c in run.summary["curves"] if (c["dataset"], c["method"]) == (dataset, COVERAGE)]
        if curves:
            figures.append(_coverage(dataset, curves, run.arms))
    return figures


def greedy_accuracy(run: Run, dataset: str) -> float | None:
    """Accuracy of the noise-free answer; None where the recipe has no such arm."""
    arm = next((arm["name"] for arm in run.settings["arms"] if arm.get("greedy")), None)
    lines = [] if arm is None else run.lines_of(dataset, arm)
    return sum(one["correct"][0] for one in lines) / len(lines) if lines else None


def _scaling(dataset: str, arm: str, curves: Sequence[dict[str, Any]], greedy: float | None) -> Figure:
    def draw(axes: Any) -> None:
        for curve in curves:
            colour, style = METHODS[curve["method"]]
            band = (percent(curve["low"]), percent(curve["high"]))
            line(axes, curve["n"], percent(curve["mean"]), band, colour, style)
        if greedy is not None:
            reference(axes, curves[0]["n"], 100 * greedy)
        log_counts(axes, curves[0]["n"])
        axes.set_ylabel("accuracy, %")
        ends = [(c["method"], 100 * c["mean"][-1], METHODS[c["method"]][0]) for c in curves]
        if greedy is not None:
            ends.append(("greedy", 100 * greedy, "ink"))
        end_labels(axes, ends, curves[0]["n"][-1])

    return Figure(
        f"scaling-{dataset}-{arm}",
        f"Accuracy against N: {arm} on {dataset}",
        "Bands: 95 % over questions and seeds. Coverage is what a perfect selector would reach."
        + ("" if greedy is None else " Dotted: the noise-free answer."),
        draw,
        _COLUMNS,
        _rows(curves),
    )


def _coverage(dataset: str, curves: Sequence[dict[str, Any]], arms: Sequence[str]) -> Figure:
    def draw(axes: Any) -> None:
        for curve in curves:
            band = (percent(curve["low"]), percent(curve["high"]))
            line(axes, curve["n"], percent(curve["mean"]), band, series(arms.index(curve["arm"])))
        widest = max((curve["n"] for curve in curves), key=lambda n: n[-1])
        log_counts(axes, widest)
        axes.set_ylabel("coverage, %")
        ends = [(c["arm"], 100 * c["mean"][-1], series(arms.index(c["arm"]))) for c in curves]
        end_labels(axes, ends, widest[-1])

    return Figure(
        f"coverage-{dataset}",
        f"Coverage against N on {dataset}",
        "Share of questions with a right answer among N (unbiased pass@N). Bands: 95 % over questions and seeds.",
        draw,
        _COLUMNS,
        _rows(curves),
    )


def _rows(curves: Sequence[dict[str, Any]]) -> list[list[Any]]:
    return [
        [c["dataset"], c["arm"], c["method"], *point]
        for c in curves
        for point in zip(c["n"], c["mean"], c["low"], c["high"], strict=True)
    ]
