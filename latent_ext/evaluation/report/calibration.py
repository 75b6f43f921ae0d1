"""Is a trajectory with a higher score right more often, and is a vote as sure as it looks?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from latent_ext.evaluation.ledger import Line
from latent_ext.evaluation.metrics import estimate
from latent_ext.evaluation.report.canvas import Figure
from latent_ext.evaluation.report.drawing import line as draw_line
from latent_ext.evaluation.report.drawing import percent
from latent_ext.evaluation.report.palette import METHODS, light
from latent_ext.evaluation.report.run_files import Run
from latent_ext.evaluation.shares import MAJORITY, RULES, WEIGHTED

_BINS = 10


def score_deciles(lines: Sequence[Line], bins: int = _BINS) -> list[dict[str, float]]:
    """How often trajectories are right, by the place of their score among all trajectories of the run.

    Args:
        lines: of one dataset, with scores; trajectories without a score have no say.
        bins: of equal numbers of trajectories.

    Returns:
        Per bin "score" (median), "share" right, and its "low" and "high", 95 % over questions.
    """
    rows = [
        (score, flag, line["index"])
        for line in lines
        for score, flag in zip(line["scores"] or (), line["correct"], strict=False)
        if score is not None
    ]
    rows.sort(key=lambda row: row[0])
    found = []
    for part in np.array_split(np.arange(len(rows)), min(bins, len(rows))) if rows else ():
        value = estimate([_by_question(rows[place] for place in part)])
        low, high = value.interval
        score = rows[part[len(part) // 2]][0]
        found.append({"score": score, "share": value.mean, "low": low, "high": high})
    return found


def vote_confidence(lines: Sequence[Line], method: str, bins: int = 5) -> list[dict[str, float]]:
    """How often a vote is right against the share of the votes that its answer has.

    Returns:
        Per bin (equal numbers of pools) the mean "confidence", the "share" right and its "low" and "high", 95 %.
    """
    rows = []
    for line in lines:
        selection = RULES[method](line["answers"], line["scores"] or [None] * len(line["answers"]))
        if selection.chosen is not None:
            total = sum(selection.votes.values())
            confidence = next(iter(selection.votes.values())) / total
            rows.append((confidence, line["correct"][selection.chosen], line["index"]))
    rows.sort(key=lambda row: row[0])
    found = []
    for part in np.array_split(np.arange(len(rows)), min(bins, len(rows))) if rows else ():
        value = estimate([_by_question(rows[place] for place in part)])
        low, high = value.interval
        confidence = float(np.mean([rows[place][0] for place in part]))
        found.append({"confidence": confidence, "share": value.mean, "low": low, "high": high})
    return found


def _by_question(rows: Iterable[tuple[float, bool, int]]) -> list[float]:
    """Share right per question: pools and trajectories of one question are not independent, questions are."""
    flags: dict[int, list[bool]] = {}
    for _, flag, question in rows:
        flags.setdefault(question, []).append(flag)
    return [sum(one) / len(one) for one in flags.values()]


def score_figure(run: Run, dataset: str, arm: str) -> Figure | None:
    """Share of right trajectories by score; None without scores."""
    lines = [
        line for line in run.lines_of(dataset, arm) if line["scores"] is not None and len(line["answers"]) > 1
    ]
    points = score_deciles(lines)
    if len(points) < 2:
        return None

    def draw(axes: Any) -> None:
        x = list(range(1, len(points) + 1))
        band = (percent([p["low"] for p in points]), percent([p["high"] for p in points]))
        draw_line(axes, x, percent([p["share"] for p in points]), band, "vermillion")
        axes.set_xticks(x, [f"{p['score']:.2g}" for p in points])
        axes.set_xlabel("score of a trajectory (medians of tenths)")
        axes.set_ylabel("right, %")
        axes.grid(axis="x", visible=False)

    return Figure(
        f"calibration-score-{dataset}-{arm}",
        f"Right answers by score: {arm} on {dataset}",
        "A reward that knows rises from left to right; a flat line is a coin. Band: 95 % over questions.",
        draw,
        ("score", "share", "low", "high"),
        [[p["score"], p["share"], p["low"], p["high"]] for p in points],
    )


def confidence_figure(run: Run, dataset: str, arm: str) -> Figure | None:
    """Accuracy of the votes against their confidence; None for an arm without several trajectories."""
    lines = [line for line in run.lines_of(dataset, arm) if len(line["answers"]) > 1]
    scored = any(line["scores"] is not None for line in lines)
    curves = {
        method: vote_confidence(lines, method) for method in ((MAJORITY, WEIGHTED) if scored else (MAJORITY,))
    }
    if not lines or not curves[MAJORITY]:
        return None

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=light("muted"), linewidth=1.0, linestyle=(0, (1, 2)))
        axes.annotate(
            "as sure as right", (22, 22), (-5, 5), textcoords="offset points", rotation=45, fontsize=8.5,
            rotation_mode="anchor", transform_rotates_text=True, ha="center", color=light("muted"),
        )  # fmt: skip
        for place, (method, points) in enumerate(curves.items()):
            colour, style = METHODS[method]
            x, y = percent([p["confidence"] for p in points]), percent([p["share"] for p in points])
            low, high = percent([p["low"] for p in points]), percent([p["high"] for p in points])
            axes.vlines(x, low, high, color=light(colour), alpha=0.35, linewidth=2.2)
            draw_line(axes, x, y, None, colour, style)
            axes.text(
                0.02,
                0.96 - 0.09 * place,
                method,
                color=light(colour),
                fontsize=8.5,
                va="top",
                transform=axes.transAxes,
            )
        axes.set_xlim(0, 103)
        axes.set_ylim(0, 103)
        axes.set_xlabel("votes for the chosen answer, %")
        axes.set_ylabel("right, %")

    return Figure(
        f"calibration-vote-{dataset}-{arm}",
        f"Is a vote as sure as it looks? {arm} on {dataset}",
        "Fifths of the questions by the share of votes that the winner has. Bars: 95 % over questions.",
        draw,
        ("method", "confidence", "share", "low", "high"),
        [
            [m, p["confidence"], p["share"], p["low"], p["high"]]
            for m, points in curves.items()
            for p in points
        ],
    )
