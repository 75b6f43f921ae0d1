"""Where the oracle had it and the choice missed it: which questions a selection lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latent_ext.evaluation.ledger import Line
from latent_ext.evaluation.report.canvas import Figure
from latent_ext.evaluation.report.palette import light
from latent_ext.evaluation.report.run_files import Run
from latent_ext.evaluation.shares import RULES

OUTCOMES = ("chosen", "missed", "nowhere")


@dataclass(frozen=True)
class Missed:
    """A question whose right answer was among the N and was not chosen.

    Attributes:
        id, seed, gold: of the question and run.
        chosen: the answer that was taken instead; None for none.
        right: how many of the N trajectories gave the gold.
        n: trajectories.
        rank: place of the best-scored right trajectory when the N are put in order of score, 1 for the first, also
            where it shares the score of the chosen one; None without scores.
    """

    id: str
    seed: int
    gold: str
    chosen: str | None
    right: int
    n: int
    rank: int | None


def outcome(line: Line, method: str) -> str:
    """ "chosen": the method's answer is right; "missed": a right one was there; "nowhere": no trajectory had it."""
    chosen = RULES[method](line["answers"], line["scores"] or [None] * len(line["answers"])).chosen
    if chosen is not None and line["correct"][chosen]:
        return "chosen"
    return "missed" if any(line["correct"]) else "nowhere"


def missed(lines: Sequence[Line], method: str) -> list[Missed]:
    """The questions that `method` lost although a right answer was there, most right trajectories first.

    Args:
        lines: of a ledger, one pool each.
        method: "majority vote", "weighted vote" or "best-of-N".
    """
    found = []
    for line in lines:
        if outcome(line, method) != "missed":
            continue
        scores = line["scores"] or [None] * len(line["answers"])
        chosen = RULES[method](line["answers"], scores).chosen
        right = [s for s, flag in zip(scores, line["correct"], strict=True) if flag and s is not None]
        rank = 1 + sum(s is not None and s > max(right) for s in scores) if right else None
        answer = None if chosen is None else line["answers"][chosen]
        found.append(
            Missed(
                line["id"], line["seed"], line["gold"], answer, sum(line["correct"]), len(scores), rank
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (-one.right / one.n, one.id, one.seed))


def post_mortem_figure(run: Run, dataset: str, arm: str) -> Figure | None:
    """Bars of the three outcomes for every rule; None for an arm that is no pool of several trajectories."""
    lines = [line for line in run.lines_of(dataset, arm) if len(line["answers"]) > 1]
    kind = next(one["kind"] for one in run.settings["arms"] if one["name"] == arm)
    if kind != "pool" or not lines:
        return None
    scored = any(line["scores"] is not None for line in lines)
    methods = [method for method in RULES if scored or method == "majority vote"]
    counts = {method: Counter(outcome(line, method) for line in lines) for method in methods}
    parts = {method: [counts[method][one] / len(lines) for one in OUTCOMES] for method in methods}

    def draw(axes: Any) -> None:
        fills = (("blue", 0.85), ("vermillion", 0.75), ("muted", 0.22))
        for place, method in enumerate(methods):
            left = 0.0
            for share, (colour, alpha) in zip(parts[method], fills, strict=True):
                axes.barh(
                    place, 100 * share, left=left, height=0.56, color=light(colour), alpha=alpha, linewidth=0
                )
                if share > 0.06:
                    ink = "ink" if colour == "muted" else "surface"
                    axes.text(
                        left + 50 * share,
                        place,
                        f"{100 * share:.0f}",
                        ha="center",
                        va="center",
                        color=light(ink),
                    )
                left += 100 * share
        names = ("chosen right", "right one missed", "nobody had it")
        for place, (name, (colour, _)) in enumerate(zip(names, fills, strict=True)):
            axes.text(
                34 * place, -0.42, f"\N{BLACK SQUARE} {name}", color=light(colour), fontsize=8.5, va="bottom"
            )
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.75)
        axes.set_xlim(0, 100)
        axes.set_xlabel("questions, %")
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)

    n = max(len(line["answers"]) for line in lines)
    return Figure(
        f"post-mortem-{dataset}-{arm}",
        f"What the choice missed: {arm} on {dataset}",
        f"{len(lines)} pools of {n}. Between the first and the last part lies what a better selection could win.",
        draw,
        ("method", *OUTCOMES),
        [[method, *parts[method]] for method in methods],
        size=(5.2, 1.3 + 0.5 * len(methods)),
    )
