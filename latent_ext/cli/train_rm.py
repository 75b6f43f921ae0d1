"""`latent-ext train-rm`: a LatentRM from a recipe and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from latent_ext.cli.strict_json import strict_json

EXAMPLES = """Examples:

  latent-ext train-rm recipe.yaml

  latent-ext train-rm recipe.yaml --set loss=bce --set output=runs/bce

  latent-ext train-rm recipe.yaml --resume"""


def train_rm(
    recipe: Annotated[Path, typer.Argument(help="YAML; docs/training.md has the keys.")],
    replaced: Annotated[
        list[str] | None, typer.Option("--set", help="key=value in place of the recipe's; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Trains a LatentRM on labels that `latent-ext annotate` wrote, and measures it on others."""
    from latent_ext.training.recipe import read_recipe

    settings = read_recipe(recipe, replaced or ())
    try:
        from latent_ext.training.train import train_rm as run
    except ImportError as error:
        raise ValueError(
            f"train-rm: {error.name or error} is missing; pip install 'latent_ext[training]'"
        ) from None
    figures = run(settings, resume=resume)
    if as_json:
        print(strict_json(figures, indent=2))
        return
    table = Table("validation", "figure", title=f"best LatentRM, in {settings.output}/best")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)
