"""Figures of an analysis: distances and fidelity per thought, and what thoughts read out as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latent_ext.evaluation.report.canvas import Figure
from latent_ext.evaluation.report.drawing import end_labels, line, shortened
from latent_ext.evaluation.report.palette import light

_GROUPS = {"all": "ink", "right-right": "blue", "right-wrong": "purple", "wrong-wrong": "vermillion"}
_BY_STEP = ("series", "thought", "mean", "low", "high", "questions")
Means = Sequence[dict[str, Any]]


def distance_figures(analysis: dict[str, Any]) -> list[Figure]:
    """Distances between trajectories per thought, cosine and Euclidean; and the move from thought to thought."""
    if "distances" not in analysis:
        return []
    figures = []
    for kind, unit in (("cosine", "cosine distance"), ("euclidean", "Euclidean distance")):
        curves = {group: analysis["distances"][kind][group] for group in _GROUPS}
        figures.append(
            _by_step(
                f"distances-{kind}",
                f"How far apart trajectories are ({kind})",
                "Mean over pairs of a question's trajectories, by their answers. Bands: 95 % over questions.",
                unit,
                {name: (curve, _GROUPS[name]) for name, curve in curves.items()},
            )
        )
    curves = {"between trajectories": (analysis["distances"]["cosine"]["all"], "ink")}
    curves["to the next thought"] = (analysis["movement"]["cosine"], "green")
    figures.append(
        _by_step(
            "movement",
            "Apart from each other, and from step to step",
            "Cosine distance between trajectories at a thought, and from a thought to the next of the same trajectory.",
            "cosine distance",
            curves,
        )
    )
    return figures


def fidelity_figure(analysis: dict[str, Any]) -> Figure | None:
    """Cosine and relative distance of sampled thoughts to the noise-free ones."""
    if "fidelity" not in analysis:
        return None
    found = analysis["fidelity"]
    return _by_step(
        "fidelity",
        "What is left of the noise-free thought",
        "Sampled against noise-free thought at the same step. Bands: 95 % over questions.",
        "",
        {"cosine": (found["cosine"], "blue"), "relative distance": (found["relative"], "vermillion")},
    )


def rank_figure(analysis: dict[str, Any]) -> Figure | None:
    """Effective rank of a question's trajectories and of all questions' noise-free thoughts."""
    if "rank" not in analysis:
        return None
    across = [
        {"mean": value, "low": None, "high": None, "questions": None} for value in analysis["rank"]["across"]
    ]
    plan = analysis["about"]["plan"]
    return _by_step(
        "rank",
        "Over how many directions thoughts spread",
        f"Effective rank: {plan['n']} trajectories of a question around their mean (at most {plan['n'] - 1}), and the "
        f"noise-free thoughts of all {analysis['about']['problems']} questions.",
        "effective rank",
        {
            "within a question": (analysis["rank"]["within"], "vermillion"),
            "across questions": (across, "blue"),
        },
    )


def naming_figure(analysis: dict[str, Any]) -> Figure | None:
    """Heat map: which thought names the value of which step of the chain."""
    if "read_out" not in analysis or not any(analysis["read_out"]["names"]):
        return None
    found = analysis["read_out"]
    table, control = found["names"], found["names_other"]
    stages = len(table[0])

    def draw(axes: Any) -> None:
        for t, row in enumerate(table):
            for s, mean in enumerate(row):
                if mean["mean"] is not None:
                    _cell(axes, t, s, mean["mean"], f"{100 * mean['mean']:.0f}")
        _grid_axes(axes, len(table), stages)
        axes.set_yticks(range(stages), [f"step {s + 1}" for s in range(stages)])
        axes.set_xlabel("thought")

    chance = [m["mean"] for row in control for m in row if m["mean"] is not None]
    other = (
        f" Against the chain of another question it is {100 * max(chance):.0f} % at most." if chance else ""
    )
    token = "first token is" if found["k"] == 1 else f"first {found['k']} tokens have"
    return Figure(
        "read-out-names",
        "Which thought names which intermediate value",
        f"Share of trajectories (%) whose thought's {token} the {found['part']} token of that step's right value.{other}",
        draw,
        ("thought", "step", "share", "low", "high", "questions", "another question's"),
        [
            [t + 1, s + 1, m["mean"], m["low"], m["high"], m["questions"], control[t][s]["mean"]]
            for t, row in enumerate(table)
            for s, m in enumerate(row)
        ],
        size=(5.2, 0.9 + 0.42 * stages),
    )


def agreement_figure(analysis: dict[str, Any]) -> Figure | None:
    """Agreement of read-outs between trajectories, and the share that names any value of the chain, with its control."""
    if "read_out" not in analysis:
        return None
    found = analysis["read_out"]
    curves = {"two agree": (found["agreement"], "ink")}
    if any(mean["mean"] is not None for mean in found["any_step"]):
        curves["names a value"] = (found["any_step"], "blue")
        curves["another question's"] = (found["any_other"], "muted")
    return _by_step(
        "read-out-agreement",
        "Do trajectories read out alike, and rightly?",
        "Chance that two trajectories have the same first token; share that names a value of the chain, and of another "
        "question's chain as a control. Bands: 95 % over questions.",
        "%",
        curves,
        scale=100.0,
    )


def example_figure(analysis: dict[str, Any]) -> Figure | None:
    """The first tokens of one question's thoughts, with the share of trajectories that has them."""
    if "read_out" not in analysis:
        return None
    example = analysis["read_out"]["example"]
    columns: list[list[Any]] = example["sampled"]
    depth = max((len(column) for column in columns), default=0)
    if depth == 0:
        return None

    def draw(axes: Any) -> None:
        for t, column in enumerate(columns):
            for row, (token, share) in enumerate(column):
                _cell(axes, t, row, share, f"{_spelled(token)}\n{100 * share:.0f} %", 8.0)
            axes.text(t, -0.78, _spelled(example["noise_free"][t]), ha="center", va="center", fontsize=9)
        axes.text(-0.6, -0.78, "noise-free", ha="right", va="center", fontsize=8.5, color=light("muted"))
        _grid_axes(axes, len(columns), depth)
        axes.set_ylim(depth - 0.5, -1.1)
        axes.set_yticks(range(depth), ["1st", "2nd", "3rd", "4th"][:depth])
        axes.set_xlabel("thought")

    values = ", ".join(str(value) for value in example["values"] if value is not None)
    return Figure(
        "read-out-example",
        "One question, read out",
        f"“{example['question']}”" + (f" Its right values are {values}." if values else ""),
        draw,
        ("thought", "place", "token", "share"),
        [
            [t + 1, r + 1, token, share]
            for t, column in enumerate(columns)
            for r, (token, share) in enumerate(column)
        ],
        size=(5.2, 1.1 + 0.5 * depth),
    )


def _by_step(
    name: str, title: str, caption: str, unit: str, curves: dict[str, tuple[Means, str]], scale: float = 1.0
) -> Figure:
    def draw(axes: Any) -> None:
        ends = []
        for label, (means, colour) in curves.items():
            known = [(t + 1, mean) for t, mean in enumerate(means) if mean["mean"] is not None]
            if not known:
                continue
            x, y = [t for t, _ in known], [scale * mean["mean"] for _, mean in known]
            banded = all(mean["low"] is not None for _, mean in known)
            band = (
                ([scale * mean["low"] for _, mean in known], [scale * mean["high"] for _, mean in known])
                if banded
                else None
            )
            line(axes, x, y, band, colour, "--" if colour == "muted" else "-")
            ends.append((label, y[-1], colour))
        longest = max(len(means) for means, _ in curves.values())
        axes.set_xticks(range(1, longest + 1))
        axes.set_xlim(0.8, longest + 0.1)
        axes.set_xlabel("thought")
        axes.set_ylabel(unit)
        axes.grid(axis="x", visible=False)
        end_labels(axes, ends, longest)

    rows = [
        [label, t + 1, mean["mean"], mean["low"], mean["high"], mean["questions"]]
        for label, (means, _) in curves.items()
        for t, mean in enumerate(means)
    ]
    return Figure(name, title, caption, draw, _BY_STEP, rows)


def _cell(axes: Any, column: int, row: int, share: float, text: str, size: float = 9.0) -> None:
    from matplotlib.patches import Rectangle

    # One hue whose opacity is the share: it lightens on a light page and darkens on a dark one.
    axes.add_patch(
        Rectangle(
            (column - 0.47, row - 0.46),
            0.94,
            0.92,
            color=light("blue"),
            alpha=0.06 + 0.8 * share,
            linewidth=0,
        )
    )
    ink = "surface" if share > 0.55 else "ink"
    axes.text(column, row, text, ha="center", va="center", fontsize=size, color=light(ink), linespacing=1.15)


def _grid_axes(axes: Any, columns: int, rows: int) -> None:
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks(range(columns), [str(t + 1) for t in range(columns)])
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _spelled(token: str) -> str:
    """A token with its blanks and line ends made visible."""
    shown = token.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}").replace(" ", "\N{OPEN BOX}")
    return shortened(shown, 8)
