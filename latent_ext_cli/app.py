"""`latent-ext`: the command line. Every command is a thin face of a Python function that it names."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.main import get_command

from latent_ext_cli.commands import Commands, options_of
from latent_ext_cli.wording import as_typed

_MALFORMED, _INTERRUPTED, _PIPE_CLOSED = 2, 130, 141

# ClickException, reached through a name that typer exports: some versions bring their own click.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="latent-ext",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"latent-ext {version('latent_ext')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Parallel test-time scaling of latent reasoning models."""


def main() -> None:
    """Entry point. Bad input gives one line on standard error and exit code 2, an interrupt 130."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        code = _run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _PIPE_CLOSED
    if code == _PIPE_CLOSED:
        # What is still in the buffer would raise once more when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Exit code of a call. Typer's own `app()` would answer a closed pipe and an interrupt in its own way."""
    command = get_command(app)
    called: str | None = None
    try:
        with command.make_context("latent-ext", list(arguments) or ["--help"]) as context:
            try:
                command.invoke(context)
            finally:
                called = context.invoked_subcommand
    except typer.Exit as done:
        return done.exit_code if arguments else _MALFORMED
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        return _PIPE_CLOSED
    except _UsageError as error:
        return _refuse(error.format_message())  # type: ignore[attr-defined]
    except MemoryError:
        return _refuse("not enough memory; ask for fewer trajectories with --n")
    except ImportError as error:
        # Perhaps of the command itself, whose options are not known then.
        return _refuse(str(error))
    except (ValueError, OverflowError, RuntimeError, OSError) as error:
        message = str(error) or type(error).__name__
        return _refuse(message if called is None else as_typed(message, options_of(called)))
    return 0


def _refuse(message: str) -> int:
    print(f"latent-ext: error: {' '.join(message.split())}", file=sys.stderr)
    return _MALFORMED


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    print(f"latent-ext: warning: {' '.join(str(message).split())}", file=sys.stderr)
