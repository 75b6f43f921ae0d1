"""`latent-ext`: the command line. Every command is a thin face of a Python function that it names."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import typer
from typer.main import get_command

from latent_ext.cli.annotate import EXAMPLES as ANNOTATE_EXAMPLES
from latent_ext.cli.annotate import annotate
from latent_ext.cli.convert import EXAMPLES as CONVERT_EXAMPLES
from latent_ext.cli.convert import convert
from latent_ext.cli.demo import EXAMPLES as DEMO_EXAMPLES
from latent_ext.cli.demo import demo
from latent_ext.cli.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from latent_ext.cli.evaluate import evaluate
from latent_ext.cli.info import EXAMPLES as INFO_EXAMPLES
from latent_ext.cli.info import info
from latent_ext.cli.merge import EXAMPLES as MERGE_EXAMPLES
from latent_ext.cli.merge import merge
from latent_ext.cli.solve import EXAMPLES as SOLVE_EXAMPLES
from latent_ext.cli.solve import solve
from latent_ext.cli.train_rm import EXAMPLES as TRAIN_RM_EXAMPLES
from latent_ext.cli.train_rm import train_rm

_MALFORMED, _INTERRUPTED, _PIPE_CLOSED = 2, 130, 141

# ClickException, reached through a name that typer exports: some versions bring their own click.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="latent-ext",
    help="Parallel test-time scaling of latent reasoning models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_COMMANDS = (
    (demo, DEMO_EXAMPLES),
    (solve, SOLVE_EXAMPLES),
    (evaluate, EVALUATE_EXAMPLES),
    (merge, MERGE_EXAMPLES),
    (annotate, ANNOTATE_EXAMPLES),
    (train_rm, TRAIN_RM_EXAMPLES),
    (convert, CONVERT_EXAMPLES),
    (info, INFO_EXAMPLES),
)
for _command, _examples in _COMMANDS:
    app.command(help=f"{_command.__doc__}\n\n{_examples}")(_command)


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
    try:
        with command.make_context("latent-ext", list(arguments) or ["--help"]) as context:
            command.invoke(context)
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
    except (ValueError, OverflowError, RuntimeError, OSError) as error:
        return _refuse(str(error) or type(error).__name__)
    return 0


def _refuse(message: str) -> int:
    print(f"latent-ext: error: {' '.join(message.split())}", file=sys.stderr)
    return _MALFORMED


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    print(f"latent-ext: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
