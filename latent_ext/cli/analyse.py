"""`latent-ext analyse`: do trajectories differ in meaning or only in noise?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from latent_ext.cli.progress import reporting
from latent_ext.evaluation.analysis import LENGTHS, MAP_METHODS, PARTS, SWEEP, AnalysisPlan
from latent_ext.evaluation.analysis.of_recipe import analyse_recipe, recipe_of, write_analysis

RENAMED = {
    "source": "RECIPE|RUN",
    "parts": "--only",
    "lengths": "--length",
    "k": "--top",
    "map_methods": "--map-method",
}

EXAMPLES = f"""Examples:

  latent-ext analyse runs/shipped

  latent-ext analyse recipe.yaml --out runs/shipped --arm noise --limit 200 --n 64

  latent-ext analyse runs/shipped --only sweep --sweep dropout:0.1 --sweep dropout:0.3

Parts: {", ".join(PARTS)}."""


def analyse(
    source: Annotated[
        Path, typer.Argument(metavar="RECIPE|RUN", help="A recipe, or the directory of a run.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Directory for analysis.json. Default: that of the run.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset of the recipe. Default: the first.")] = None,
    arm: Annotated[
        str | None,
        typer.Option(help="Arm of the recipe that samples thoughts. Default: the first that does."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Problems.")] = 50,
    n: Annotated[int, typer.Option("--n", help="Trajectories per problem.")] = 16,
    only: Annotated[
        list[str] | None, typer.Option(help="A part to measure, given once for each. Default: all.")
    ] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="A sampler of the sweep, given once for each.")
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(help="A number of thoughts T to compare at equal compute, given once for each."),
    ] = None,
    maps: Annotated[int, typer.Option(help="Problems that are drawn as maps.")] = 2,
    map_method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(MAP_METHODS)}, given once for each. Default: those that are installed."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Tokens per thought that count as named in the read-out.")] = 1,
    part: Annotated[str, typer.Option(help="Token that names a value of several: last or first.")] = "last",
    seed: Annotated[int, typer.Option(help="Run seed.")] = 0,
    replaced: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, in YAML.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Measures the thoughts of sampled trajectories and writes RUN/analysis.json, from which `report` draws."""
    if threads < 1:
        raise ValueError(f"threads: got {threads}; at least 1 is needed")
    torch.set_num_threads(threads)
    recipe, run = recipe_of(source, replaced or [])
    if out is None and run is None:
        raise ValueError("out: not given; a directory is needed where the source is a recipe")
    plan = AnalysisPlan(
        parts=only or PARTS,
        n=n,
        sweep=sweep or SWEEP,
        lengths=length or LENGTHS,
        maps=maps,
        map_methods=map_method or None,
        part=part,
        k=top,
        seed=seed,
    )
    with reporting("analysing", unit="") as report:
        found = analyse_recipe(
            recipe,
            plan,
            dataset=dataset,
            arm=arm,
            limit=limit,
            report=lambda phase, done, total: report(done, total, label=phase),
        )
    directory = out if out is not None else run
    assert directory is not None
    path = write_analysis(directory, found)
    _print(found)
    print(f"{path}: drawn by latent-ext report")


def _print(found: dict[str, Any]) -> None:
    """What was measured per thought, as a table."""
    about = found["about"]
    rows: list[tuple[str, list[dict[str, Any]]]] = []
    if "distances" in found:
        rows += [
            (f"cosine distance, {group}", means) for group, means in found["distances"]["cosine"].items()
        ]
        rows.append(("cosine distance to the next thought", found["movement"]["cosine"]))
    if "rank" in found:
        rows.append(("effective rank within a question", found["rank"]["within"]))
    if "fidelity" in found:
        rows.append(("cosine to the noise-free thought", found["fidelity"]["cosine"]))
    if "read_out" in found:
        rows.append(("read-outs that agree", found["read_out"]["agreement"]))
        rows.append(("names a value of its chain", found["read_out"]["any_step"]))
        rows.append(("names one of another question's", found["read_out"]["any_other"]))
    if not rows:
        return
    steps = max(len(means) for _, means in rows)
    table = Table(
        "per thought",
        *(f"z{t + 1}" for t in range(steps)),
        title=f"{about['problems']} problems of {about['dataset']}, arm {about['arm']}, N = {about['plan']['n']}",
    )
    for name, means in rows:
        cells = ["" if one["mean"] is None else f"{one['mean']:.3f}" for one in means]
        table.add_row(name, *cells, *[""] * (steps - len(cells)))
    Console().print(table, highlight=False)
