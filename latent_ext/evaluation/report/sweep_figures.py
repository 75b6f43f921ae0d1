"""Diversity against coverage over a sweep of p and sigma, and T against N at equal compute."""

from __future__ import annotations

from typing import Any

from latent_ext.evaluation.report.canvas import Figure
from latent_ext.evaluation.report.drawing import end_labels, percent
from latent_ext.evaluation.report.drawing import line as draw_line
from latent_ext.evaluation.report.palette import light

_MEASURES = {"coverage": "muted", "majority": "blue", "single": "vermillion"}
_LABELS = {"coverage": "coverage", "majority": "majority vote", "single": "pass@1", "greedy": "greedy"}


def sweep_figures(analysis: dict[str, Any]) -> list[Figure]:
    """One figure per kind of sampler in the sweep."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for point in analysis.get("sweep", []):
        kinds.setdefault(str(point["sampler"]).partition(":")[0], []).append(point)
    plan = analysis["about"]["plan"]
    return [_sweep(kind, points, plan["n"]) for kind, points in kinds.items()]


def _sweep(kind: str, points: list[dict[str, Any]], n: int) -> Figure:
    points = sorted(points, key=lambda point: point["diversity"]["mean"])

    def draw(axes: Any) -> None:
        x = [point["diversity"]["mean"] for point in points]
        ends = []
        for measure, colour in _MEASURES.items():
            y = percent([point[measure]["mean"] for point in points])
            band = (
                percent([point[measure]["low"] for point in points]),
                percent([point[measure]["high"] for point in points]),
            )
            draw_line(axes, x, y, band, colour, "--" if measure == "coverage" else "-")
            name = f"coverage@{n}" if measure == "coverage" else _LABELS[measure]
            ends.append((name, y[-1], colour))
        last = -float("inf")
        for place, point in enumerate(points):
            level = str(point["sampler"]).partition(":")[2].removesuffix(":relative")
            # Near neighbours would overlap: a level is written where there is room for it.
            if x[place] - last > 0.055 * (x[-1] - x[0]):
                last = x[place]
                height = 100 * point["coverage"]["high"]
                axes.annotate(
                    level, (x[place], height), (0, 3), textcoords="offset points", ha="center", fontsize=8,
                    color=light("muted"),
                )  # fmt: skip
        axes.set_xlabel("diversity: mean cosine distance between trajectories")
        axes.set_ylabel("questions, %")
        axes.grid(axis="x", visible=False)
        end_labels(axes, ends, x[-1])

    letter = {"dropout": "p", "noise": "sigma"}.get(kind, "the level")
    return Figure(
        f"sweep-{kind}",
        f"Diversity against coverage: {kind}",
        f"Each point is one {letter} (above it), {n} trajectories a question. Bands: 95 % over questions.",
        draw,
        (
            "sampler",
            "diversity",
            "distinct answers",
            *(f"{m}{e}" for m in _MEASURES for e in ("", " low", " high")),
        ),
        [
            [p["sampler"], p["diversity"]["mean"], p["distinct"]["mean"]]
            + [p[m][e] for m in _MEASURES for e in ("mean", "low", "high")]
            for p in points
        ],
    )


def steps_figure(analysis: dict[str, Any]) -> Figure | None:
    """Accuracy by T, with as many trajectories as the same budget pays for."""
    if "steps_against_width" not in analysis:
        return None
    found = analysis["steps_against_width"]
    rows = sorted(found["rows"], key=lambda row: row["thoughts"])
    own = analysis["about"]["latent_length"]
    colours = {**_MEASURES, "greedy": "ink"}

    def draw(axes: Any) -> None:
        x = [row["thoughts"] for row in rows]
        ends = []
        for measure, colour in colours.items():
            y = percent([row[measure]["mean"] for row in rows])
            band = (
                percent([row[measure]["low"] for row in rows]),
                percent([row[measure]["high"] for row in rows]),
            )
            draw_line(axes, x, y, band, colour, "--" if measure == "coverage" else "-")
            ends.append(
                (f"{_LABELS[measure]}@N" if measure == "coverage" else _LABELS[measure], y[-1], colour)
            )
        axes.axvline(own, color=light("ink"), linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
        axes.set_xticks(x, [f"{row['thoughts']}\n{row['n']}" for row in rows])
        axes.annotate(
            "T\nN", (0, 0), (-6, -5), xycoords="axes fraction", textcoords="offset points", ha="right", va="top",
            fontsize=8.5, color=light("muted"),
        )  # fmt: skip
        axes.set_xlabel("thoughts T, and trajectories N that the budget pays for")
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="x", visible=False)
        end_labels(axes, ends, x[-1])

    return Figure(
        "steps-against-width",
        "Longer thoughts or more of them, at equal compute",
        f"{found['budget']} passes through the body a question at every T, prompt apart. Dotted: the model's own T = {own}. "
        "Bands: 95 % over questions.",
        draw,
        ("T", "N", "passes", *(f"{m}{e}" for m in colours for e in ("", " low", " high"))),
        [
            [row["thoughts"], row["n"], row["passes"]]
            + [row[m][e] for m in colours for e in ("mean", "low", "high")]
            for row in rows
        ],
    )
