"""`latent-ext merge`: the shards of an evaluation in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_ext.cli.tables import print_tables
from latent_ext.evaluation.merge import merge_runs

EXAMPLES = """Examples:

  latent-ext merge runs/a.1 runs/a.2 runs/a.3 --out runs/a"""


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Directories that `latent-ext evaluate` wrote.")],
    out: Annotated[Path, typer.Option(help="A directory without a ledger.")],
) -> None:
    """Joins runs of the same settings in canonical order: the bytes of a single run's ledger."""
    merged = merge_runs(runs, out)
    print_tables(merged.summary)
    print(f"{merged.questions} of {merged.wanted} questions in {out}")
