"""Marks that several figures share: lines with bands, labels at their ends that do not overlap, axes of shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latent_ext.evaluation.report.palette import light

Interval = tuple[Sequence[float], Sequence[float]]


def line(
    axes: Any,
    x: Sequence[float],
    y: Sequence[float],
    band: Interval | None,
    colour: str,
    style: str = "-",
    marker: str = "o",
) -> None:
    """A line with its 95 % band behind it."""
    if band is not None:
        axes.fill_between(x, band[0], band[1], color=light(colour), alpha=0.11, linewidth=0)
        for edge in band:
            axes.plot(x, edge, color=light(colour), alpha=0.35, linewidth=0.6)
    axes.plot(x, y, style, color=light(colour), marker=marker, markeredgewidth=0)


def end_labels(axes: Any, ends: Sequence[tuple[str, float, str]], x: float) -> None:
    """Names at the right ends of lines, moved apart where they would overlap.

    Args:
        ends: (text, y of the line's end, colour).
        x: of the lines' ends.
    """
    low, high = axes.get_ylim()
    height = axes.get_figure().get_figheight() * 72 * 0.78
    gap = 11.5 * (high - low) / height
    order = sorted(range(len(ends)), key=lambda place: ends[place][1])
    places = [ends[place][1] for place in order]
    for _ in range(200):
        for lower in range(len(places) - 1):
            short = gap - (places[lower + 1] - places[lower])
            if short > 0:
                places[lower] -= short / 2
                places[lower + 1] += short / 2
        if places:
            down = max(0.0, places[-1] - high)
            up = max(0.0, low + gap / 2 - places[0])
            places = [y - down if down else y + up for y in places]
    for place, y in zip(order, places, strict=True):
        text, _, colour = ends[place]
        axes.annotate(
            shortened(text), (x, y), (7, 0), textcoords="offset points", va="center", ha="left",
            color=light(colour), fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def reference(axes: Any, x: Sequence[float], y: float) -> None:
    """A dotted horizontal line at what everything is compared with, from the first to the last x."""
    axes.plot([x[0], x[-1]], [y, y], color=light("ink"), linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)


def log_counts(axes: Any, counts: Sequence[int], label: str = "trajectories N") -> None:
    """A base-2 axis whose ticks are the counts themselves."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(counts), [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(axis="x", visible=False)


def shortened(text: str, most: int = 22) -> str:
    """The text on one line, cut to what fits beside a figure."""
    flat = "".join(character if character.isprintable() else "\N{SYMBOL FOR SPACE}" for character in text)
    return flat if len(flat) <= most else flat[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def percent(values: Sequence[float]) -> list[float]:
    """Shares as percentages."""
    return [100 * value for value in values]
