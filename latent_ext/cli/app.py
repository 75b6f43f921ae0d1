"""`latent-ext`: the command line. Every command is a thin face of a Python function that it names."""

from __future__ import annotations

import sys
import warnings

import click
import typer

from latent_ext.cli.demo import demo
from latent_ext.cli.info import info
from latent_ext.cli.solve import solve

app = typer.Typer(
    name="latent-ext",
    help="Parallel test-time scaling of latent reasoning models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
app.command()(demo)
app.command()(solve)
app.command()(info)


def main() -> None:
    """Entry point. Bad input gives one line on standard error and exit code 2, an interrupt 130."""
    warnings.showwarning = lambda message, *_args, **_kwargs: print(f"latent-ext: warning: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except (ValueError, RuntimeError, OSError) as error:
        _fail(str(error))
    except (KeyboardInterrupt, click.exceptions.Abort):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print(f"latent-ext: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
