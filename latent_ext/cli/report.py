"""`latent-ext report`: one page that shows a run, or two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_ext.cli.progress import reporting
from latent_ext.evaluation.report import write_report

EXAMPLES = """Examples:

  latent-ext report runs/shipped

  latent-ext report runs/before runs/after --out comparison"""


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="One or two directories of `latent-ext evaluate`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the page. Default: that of the run; for two, a new one in the first."
        ),
    ] = None,
) -> None:
    """Writes report.html (self-contained), figures/*.png and tables/*.csv of one run or of two side by side."""
    with reporting("drawing", unit="figures") as progress:
        written = write_report(runs, out, progress=progress)
    print(f"{written.page}: {len(written.figures)} figures, {len(written.tables)} CSV files")
