"""`latent-ext demo`: the shipped model on shipped held-out problems, with intervals and controls."""

from __future__ import annotations

import time
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from latent_ext.assets import SHIPPED_SAMPLER, SHIPPED_SPLIT
from latent_ext.cli.progress import reporting
from latent_ext.cli.strict_json import strict_json
from latent_ext.evaluation.demonstration import Demonstration, demonstrate
from latent_ext.evaluation.metrics import Estimate
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.models import load
from latent_ext.rewards import load_reward

EXAMPLES = """Examples:

  latent-ext demo

  latent-ext demo --split test_6 --n 16 --seeds 3

  latent-ext demo --limit 100 --sampler dropout:0.2 --json"""


def demo(
    n: Annotated[int, typer.Option("--n", help="Trajectories per problem.")] = 64,
    sampler: Annotated[str, typer.Option(help="Latent sampler.")] = SHIPPED_SAMPLER,
    split: Annotated[str, typer.Option(help="Shipped held-out split.")] = SHIPPED_SPLIT,
    limit: Annotated[int, typer.Option(help="Problems.")] = 500,
    seeds: Annotated[int, typer.Option(help="Independent pools of N trajectories.")] = 1,
    engine: Annotated[str, typer.Option(help="auto, modules or reference.")] = "auto",
    threads: Annotated[
        int, typer.Option(help="CPU threads; the shipped model is too small to gain from more.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Runs parallel test-time scaling on shipped held-out problems and prints what it gains."""
    if seeds < 1:
        raise ValueError(f"seeds: got {seeds}; at least 1 is needed")
    if threads < 1:
        raise ValueError(f"threads: got {threads}; at least 1 is needed")
    torch.set_num_threads(threads)
    problems = shipped_problems(split, limit)
    model, reward, reading = load(), load_reward(), load_reward("answer_rm")
    started = time.monotonic()
    with reporting("demo") as report:
        shown = demonstrate(
            model,
            reward,
            reading,
            problems,
            n=n,
            sampler=sampler,
            seeds=range(seeds),
            engine=engine,
            report=lambda phase, done, total: report(done, total, label=phase),
        )
    seconds = time.monotonic() - started
    if as_json:
        print(strict_json(_json(shown, sampler, split, seconds), indent=2))
    else:
        _print(shown, sampler, split, seconds)


def _print(shown: Demonstration, sampler: str, split: str, seconds: float) -> None:
    console = Console()
    seeds = f", {shown.seeds} seeds" if shown.seeds > 1 else ""
    table = Table(
        "method",
        "N",
        "accuracy",
        "95 % interval",
        title=f"{shown.problems} held-out problems of {split}, sampler {sampler}{seeds}",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in shown.rows:
        low, high = row.accuracy.interval
        style = "dim" if row.control else None
        table.add_row(
            row.method,
            str(row.n),
            f"{100 * row.accuracy.mean:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
            style=style,
        )
    console.print(table)
    for name, auc in (("LatentRM", shown.auc), ("LatentRM that reads answers", shown.reading_auc)):
        if auc is not None:
            low, high = auc.interval
            console.print(
                f"{name} within a question: AUC {auc.mean:.3f} ({low:.3f} to {high:.3f}); 0.5 is a coin.",
                highlight=False,
            )
    console.print(
        "Dim rows are controls: the noise-free answer, and answer tokens sampled after noise-free thoughts.\n"
        f"{seconds:.0f} s on {torch.get_num_threads()} CPU thread(s).",
        style="dim",
        highlight=False,
    )


def _json(shown: Demonstration, sampler: str, split: str, seconds: float) -> dict[str, Any]:
    def of(value: Estimate) -> dict[str, Any]:
        low, high = value.interval
        return {
            "mean": value.mean,
            "standard_error": value.standard_error,
            "interval": [low, high],
            "seed_spread": value.seed_spread,
        }

    return {
        "split": split,
        "sampler": sampler,
        "problems": shown.problems,
        "seeds": shown.seeds,
        "rows": [{"method": r.method, "n": r.n, "control": r.control, **of(r.accuracy)} for r in shown.rows],
        "auc": None if shown.auc is None else of(shown.auc),
        "reading_auc": None if shown.reading_auc is None else of(shown.reading_auc),
        "seconds": seconds,
    }
