"""Maps of one question's trajectories around the deterministic one."""

from __future__ import annotations

from typing import Any

from latent_ext.evaluation.report.canvas import Figure
from latent_ext.evaluation.report.drawing import shortened
from latent_ext.evaluation.report.palette import RIGHT, WRONG, light

_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_COLUMNS = ("trajectory", "thought", "x", "y", "right")


def map_figures(analysis: dict[str, Any]) -> list[Figure]:
    """One figure per question and method of the analysis."""
    return [_map(found, place) for place, found in enumerate(analysis.get("maps", []))]


def _map(found: dict[str, Any], place: int) -> Figure:
    method = _NAMES[found["method"]]

    def draw(axes: Any) -> None:
        # Lines lead the eye from thought to thought only where distances mean something.
        joined = found["method"] == "pca"
        for path, right in zip(found["sampled"], found["correct"], strict=True):
            points = [xy for xy in path if xy is not None]
            x, y = [xy[0] for xy in points], [xy[1] for xy in points]
            colour = light(RIGHT if right else WRONG)
            if joined:
                axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.35)
            axes.scatter(x, y, s=14, color=colour, alpha=0.75, linewidth=0)
        base = [xy for xy in found["noise_free"] if xy is not None]
        x, y = [xy[0] for xy in base], [xy[1] for xy in base]
        if joined:
            axes.plot(x, y, color=light("ink"), linewidth=1.6)
        axes.scatter(x, y, s=72, color=light("ink"), linewidth=0, zorder=3)
        for t, xy in enumerate(base):
            axes.text(
                *xy, str(t + 1), ha="center", va="center", color=light("surface"), fontsize=7.5, zorder=4
            )
        for row, (text, name) in enumerate(
            (("noise-free", "ink"), ("right answer", RIGHT), ("wrong answer", WRONG))
        ):
            axes.text(
                1.02, 0.98 - 0.075 * row, f"\N{BLACK CIRCLE} {text}", color=light(name), fontsize=8.5, va="top",
                transform=axes.transAxes,
            )  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        if found["explained"] is not None:
            first, second = (f"{100 * share:.0f} % of the variance" for share in found["explained"])
            axes.set_xlabel(first)
            axes.set_ylabel(second)

    caution = (
        ""
        if found["method"] == "pca"
        else " Neighbourhoods are kept; distances between far points mean nothing."
    )
    rows: list[list[Any]] = [
        ["noise-free", t + 1, *xy, None] for t, xy in enumerate(found["noise_free"]) if xy is not None
    ]
    for n, (path, right) in enumerate(zip(found["sampled"], found["correct"], strict=True)):
        rows += [[n, t + 1, *xy, right] for t, xy in enumerate(path) if xy is not None]
    return Figure(
        f"map-{place + 1}-{found['method']}",
        f"{method} map of {shortened(found['id'])}",
        f"All thoughts of one question; numbers count the noise-free thoughts.{caution}",
        draw,
        _COLUMNS,
        rows,
        size=(5.2, 3.8),
    )
