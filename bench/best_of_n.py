"""Best-of-N: `latent_ext.solve` against two baselines in plain Hugging Face parts, checked and timed in one run.

"published" does what LatentTTS does, "careful" what a careful PyTorch user would write (bench/baselines). All
methods first run once with the same counter-based random numbers: a ratio is printed only if they choose the
same. They are then timed in turns, the baselines with torch's own dropout and normal numbers.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Annotated, Any

import grid as grids
import typer
from case import METHODS, SAMPLERS, Case, measure
from quality import QUESTIONS, quality
from results import Results
from rich.console import Console
from rich.table import Table
from shapes import SHAPES, Shape, build_shape

from latent_ext.assets import SHIPPED_SAMPLER
from latent_ext.cli.progress import reporting

EXAMPLES = """Examples:

  python bench/best_of_n.py --shape gpt2 --n 64 --sampler noise --threads 1 --json

  python bench/best_of_n.py --shape shipped --n 64 --sampler dropout --scope prompt+latent

  python bench/best_of_n.py --grid quick --resume

  python bench/best_of_n.py --shape shipped --weights bf16 --quality"""

FILE = Path(__file__).parent / "results" / "best_of_n.json"
app = typer.Typer(add_completion=False)
stderr = Console(stderr=True)


@app.command(help=__doc__, epilog=EXAMPLES)
def main(
    shape: Annotated[
        str | None, typer.Option(help=f"{', '.join(SHAPES)}; a grid runs all by default.")
    ] = None,
    n: Annotated[int, typer.Option(help="Trajectories per question.")] = 64,
    questions: Annotated[
        int | None, typer.Option(help=f"Questions in one call; 1 by default, {QUESTIONS} with --quality.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="noise, dropout, or a text such as dropout:0.1; noise by default, "
            f"with --quality {SHIPPED_SAMPLER}, which the shipped LatentRM knows."
        ),
    ] = None,
    scope: Annotated[str, typer.Option(help="latent or prompt+latent.")] = "latent",
    select: Annotated[str, typer.Option(help="best_of_n or weighted_vote.")] = "best_of_n",
    weights: Annotated[str, typer.Option(help="Of ours: fp32, bf16 or int8.")] = "fp32",
    engine: Annotated[str, typer.Option(help="Of ours.")] = "auto",
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(METHODS),
    threads: Annotated[int, typer.Option(help="Of all methods.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed runs; what takes over 20 s is timed once.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the run, and of random weights.")] = 0,
    grid: Annotated[str | None, typer.Option(help="quick or full.")] = None,
    results: Annotated[Path, typer.Option(help="Where a grid's records go.")] = FILE,
    resume: Annotated[bool, typer.Option("--resume", help="Skip cells that are recorded already.")] = False,
    compare_quality: Annotated[
        bool, typer.Option("--quality", help="Winners and accuracy of reduced weights against fp32.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    try:
        if shape is not None and shape not in SHAPES:
            raise ValueError(f"shape: got {shape!r}; allowed are {', '.join(SHAPES)}")
        chosen = sampler or (SHIPPED_SAMPLER if compare_quality else "noise")
        case = Case(
            shape=shape or ("shipped" if compare_quality else "gpt2"),
            n=n,
            questions=questions or (QUESTIONS if compare_quality else 1),
            sampler=SAMPLERS.get(chosen, chosen),
            scope=scope,
            select=select,
            weights=weights,
            engine=engine,
            threads=threads,
            repeats=repeats,
            seed=seed,
            methods=tuple(method.strip() for method in methods.split(",")),
        )
        if grid is not None:
            run_grid(grid, case, (shape,) if shape else grids.SHAPE_ORDER, Results(results, resume=resume))
            return
        if compare_quality:
            print(json.dumps(quality(case), indent=2))
            return
        record = run(case, build_shape(case.shape, case.questions, case.seed))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        print(json.dumps(record, indent=2))
    else:
        Console().print(table(record))
    if record["same_winner"] is False:
        raise typer.Exit(1)


def run(case: Case, shape: Shape, label: str = "") -> dict[str, Any]:
    """`measure` with progress on standard error."""
    rows = case.n * case.questions
    with reporting("") as report:
        return measure(
            case, shape, report=lambda done, total, what: report(done * rows, total * rows, label + what)
        )


def run_grid(name: str, settings: Case, shapes: tuple[str, ...], results: Results) -> None:
    """Runs the cells of a grid, each recorded as it is finished.

    Raises:
        typer.Exit: with code 1, after the last cell, if the methods of any cell disagreed.
    """
    taken, left_out = grids.cells(name, settings, shapes)
    if left_out:
        listed = ", ".join(f"{c.shape} {c.select} {c.n}x{c.questions}" for c in left_out)
        stderr.print(f"left out of {name} (N x questions): {listed}", highlight=False)
    built: tuple[tuple[str, int], Shape] | None = None
    failed = False
    for place, case in enumerate(taken, start=1):
        if results.holds(case.settings()):
            continue
        wanted = (case.shape, case.questions)
        if built is None or built[0] != wanted:
            built = None  # one shape in memory at a time
            gc.collect()
            built = (wanted, build_shape(case.shape, case.questions, case.seed))
        what = f"[{place}/{len(taken)}] {case.shape} {case.select} {case.n}x{case.questions}"
        record = run(case, built[1], what + ": ")
        results.add(record)
        failed |= record["same_winner"] is False
        stderr.print(f"{what}: {_line(record)}", highlight=False, markup=False)
    if failed:
        raise typer.Exit(1)


def _line(record: dict[str, Any]) -> str:
    if record["same_winner"] is False:
        return "the methods disagree, no ratio"
    spent = record["cpu_s"]
    return ", ".join(f"{method} {value:.3g} CPU-s" for method, value in spent.items() if value is not None)


def table(record: dict[str, Any]) -> Table:
    """A record for the terminal."""
    settings, machine = record["settings"], record["machine"]
    title = (
        f"{record['shape']}\nN {settings['n']}, questions {settings['questions']}, {settings['sampler']}, "
        f"scope {settings['scope']}, {settings['select']}, {settings['weights']}, engine {record['engine']}"
    )
    caption = (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['capability']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}, latent_ext {machine['latent_ext']}"
    )
    drawn = Table("method", "CPU-s", "wall s", "runs", "ours is faster", title=title, caption=caption)
    for method in METHODS:
        ratio = record["ratio"].get(method)
        drawn.add_row(
            method,
            _number(record["cpu_s"][method]),
            _number(record["wall_s"][method]),
            str(record["runs"][method]),
            "" if ratio is None else f"{ratio:.2f} x",
        )
    drawn.add_section()
    drawn.add_row("arithmetic", _number(record["floor_cpu_s"]), "", "", f"{record['gflop']:.1f} GFLOP")
    for phase, seconds in (record["phases_cpu_s"] or {}).items():
        work = record["gflop_by_phase"].get(phase)
        drawn.add_row(f"  {phase}", _number(seconds), "", "", "" if work is None else f"{work:.1f} GFLOP")
    for method, found in record["agreement"].items():
        verdict = "same winner" if found["same"] else "[red]another winner or answer[/]"
        identical = f"{found['identical_winners']} of {found['questions']} identical"
        drawn.add_row(f"{method}: {verdict}", "", "", "", identical)
    return drawn


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    app()
