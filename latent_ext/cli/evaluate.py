"""`latent-ext evaluate`: a recipe's arms on its datasets, with intervals; goes on where it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from latent_ext.cli.progress import reporting
from latent_ext.cli.strict_json import strict_json
from latent_ext.cli.tables import print_tables
from latent_ext.evaluation.evaluate import evaluate as run_evaluate
from latent_ext.evaluation.executors import choose_executor
from latent_ext.evaluation.recipe import read_recipe
from latent_ext.evaluation.unit import Shard

RENAMED = {"ray-address": "--ray-address"}

EXAMPLES = """Examples:

  latent-ext evaluate examples/evaluate/shipped.yaml --out runs/shipped

  latent-ext evaluate recipe.yaml --out runs/a --limit 50 --set arms.noise.n=16 --set seeds=[0]

  latent-ext evaluate recipe.yaml --out runs/a.2 --shard 2/3

  latent-ext evaluate recipe.yaml --out runs/a --executor process --workers 8"""


def evaluate(
    recipe: Annotated[Path, typer.Argument(help="YAML; docs/evaluation.md has the keys.")],
    out: Annotated[Path, typer.Option(help="Directory of the run: a new one, or one to go on with.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE in place of the recipe's, for example arms.noise.n=16."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many problems of every dataset.")] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: only the i-th of n parts, with an --out of its own.")
    ] = "1/1",
    executor: Annotated[str, typer.Option(help="inline, process or ray.")] = "inline",
    workers: Annotated[
        int | None, typer.Option(help="Of process and ray. Default: one per CPU, or per GPU of a CUDA run.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads, of each worker.")] = 1,
    batch: Annotated[int, typer.Option(help="Questions that are answered, and written, together.")] = 32,
    ray_address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster. Default: RAY_ADDRESS, else this machine alone.")
    ] = None,
    ray_wait: Annotated[float, typer.Option(help="Seconds to wait for the Ray cluster.")] = 60.0,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although settings have changed; fitting results are kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="summary.json instead of tables.")] = False,
) -> None:
    """Answers a recipe's problems in each of its ways, and prints what each gains, with intervals."""
    part = Shard.parse(shard)
    chosen = choose_executor(
        executor, workers=workers, threads=threads, address=ray_address, patience=ray_wait
    )
    torch.set_num_threads(threads)
    read = read_recipe(recipe, set_ or [], limit=limit)
    with reporting("evaluating", unit="questions") as report:
        evaluated = run_evaluate(
            read, out, shard=part, executor=chosen, batch=batch, force=force, progress=report
        )
    if as_json:
        print(strict_json(evaluated.summary, indent=2))
    else:
        print_tables(evaluated.summary)
        print(f"{evaluated.finished} questions finished now, {evaluated.wanted} wanted, in {out}")
    sys.stdout.flush()
    if evaluated.failures:
        first = evaluated.failures[0]
        raise RuntimeError(
            f"{len(evaluated.failures)} questions failed; the same call tries them again. The first: dataset "
            f"{first['dataset']}, arm {first['arm']}, seed {first['seed']}, id {first['id']}: {first['error']}"
        )
