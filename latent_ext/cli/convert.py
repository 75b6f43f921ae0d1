"""`latent-ext convert`: a checkpoint from one published layout into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_ext.models.convert import convert as run_convert
from latent_ext.models.layouts import LAYOUTS
from latent_ext.models.registry import FAMILIES

EXAMPLES = """Examples:

  latent-ext convert path/to/CODI-gpt2 path/to/codi --to latenttts --lossy

  latent-ext convert path/to/checkpoint_33 path/to/coconut --to latenttts --base gpt2/dir

  latent-ext convert path/to/coconut path/to/original --to original-coconut"""


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Directory, weight file or Hub id.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A directory that is new or empty.")],
    to: Annotated[
        str,
        typer.Option(help=f"Layout: {', '.join(LAYOUTS)}."),
    ],
    family: Annotated[
        str | None, typer.Option(help=f"{', '.join(FAMILIES)}. Default: read off the files.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Directory or Hub id of the base model, for what SRC leaves out.")
    ] = None,
    lossy: Annotated[
        bool,
        typer.Option("--lossy", help="Merge adapters and leave out a deviation where DST cannot hold them."),
    ] = False,
) -> None:
    """Writes a checkpoint in another layout; tensors keep their bits unless --lossy merges adapters."""
    switches = run_convert(source, target, to, family=family, base=base, lossy=lossy)
    print(f"{target}: layout {to}")
    if switches:
        kept = " ".join(f"--switch {name}={_text(value)}" for name, value in switches.items())
        print(f"It behaves as {source} did with {kept}")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
