"""CPU time against N, from the records of best_of_n.py: docs/best_of_n.png."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from best_of_n import FILE

STYLE = {
    "published": ("LatentTTS as published", "#888888", "s"),
    "careful": ("careful PyTorch", "#4477aa", "^"),
    "ours": ("latent_ext", "#ee6677", "o"),
}
SELECT = {"best_of_n": "best-of-N", "weighted_vote": "weighted vote"}


def main(
    results: Annotated[Path, typer.Option(help="Records of best_of_n.py --grid.")] = FILE,
    output: Annotated[Path, typer.Option(help="PNG to write.")] = Path("docs/best_of_n.png"),
    shape: Annotated[str, typer.Option(help="Which shape.")] = "gpt2",
) -> None:
    """Draws one panel per selection, one question, all methods that agreed."""
    records = json.loads(results.read_text(encoding="utf-8"))["records"]
    panels = {select: series(records, shape, select) for select in SELECT}
    panels = {select: lines for select, lines in panels.items() if lines}
    if not panels:
        raise typer.BadParameter(f"results: {results} has no record of shape {shape!r} with one question")
    chosen = [record for record in records if record["settings"]["shape"] == shape]
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(panels, chosen[0], output)


def series(records: list[dict[str, Any]], shape: str, select: str) -> dict[str, list[tuple[int, float]]]:
    """Points (N, CPU-seconds) by method, of one question's cells."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        settings = record["settings"]
        if (settings["shape"], settings["select"], settings["questions"]) != (shape, select, 1):
            continue
        for method in STYLE:
            if record["cpu_s"][method] is not None:
                lines.setdefault(method, []).append((settings["n"], record["cpu_s"][method]))
    return {method: sorted(points) for method, points in lines.items()}


def draw(panels: dict[str, dict[str, list[tuple[int, float]]]], record: dict[str, Any], path: Path) -> None:
    """Log-log lines, one panel per selection with a common axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    width = 3.9 * len(panels)
    figure, grid = pyplot.subplots(1, len(panels), figsize=(width, 3.6), dpi=110, sharey=True, squeeze=False)
    for axes, (select, lines) in zip(grid[0], panels.items(), strict=True):
        for method, (label, color, marker) in STYLE.items():
            if method not in lines:
                continue
            sizes, seconds = zip(*lines[method], strict=True)
            axes.plot(sizes, seconds, color=color, marker=marker, markersize=4, linewidth=1.6, label=label)
        every = sorted({n for points in lines.values() for n, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(every, [str(n) for n in every])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axes.set_xlabel("trajectories N")
        axes.set_title(SELECT[select], fontsize=10)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("CPU-seconds per question")
    grid[0][0].legend(frameon=False, fontsize=8)
    machine, settings = record["machine"], record["settings"]
    figure.suptitle(f"{record['shape']}, {settings['sampler']}", fontsize=9)
    figure.text(
        0.99, 0.01, f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}",
        ha="right", fontsize=6.5, color="#666666",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path)


if __name__ == "__main__":
    typer.run(main)
