"""The commands of `latent-ext`, each imported from `latent_ext.cli` when it is called."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

# In the order of the help. Each line is also the docstring of the command's function.
COMMANDS = {
    "demo": "Runs parallel test-time scaling on shipped held-out problems and prints what it gains.",
    "solve": "Answers questions with N sampled trajectories each, and says how it chose.",
    "evaluate": "Answers a recipe's problems in each of its ways, and prints what each gains, with intervals.",
    "merge": "Joins runs of the same settings in canonical order: the bytes of a single run's ledger.",
    "analyse": "Measures the thoughts of sampled trajectories and writes RUN/analysis.json, from which `report` draws.",
    "report": (
        "Writes report.html (self-contained), figures/*.png and tables/*.csv of one run or of two side by side."
    ),
    "annotate": (
        "Samples N trajectories per question and rolls each out M times from every thought; goes on where it was."
    ),
    "train-rm": "Trains a LatentRM on labels that `latent-ext annotate` wrote, and measures it on others.",
    "convert": (
        "Writes a checkpoint in another layout; tensors keep their bits unless --lossy merges adapters."
    ),
    "info": "Shows versions, ISA levels, CUDA architectures and the engine that would be chosen, and why.",
}


class Commands(TyperGroup):
    """The group of all `COMMANDS`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: _Deferred(name, help=line) for name, line in COMMANDS.items()}


class _Deferred(TyperCommand):
    """A name and a line of help; what is called is the command itself."""

    def make_context(self, info_name: str | None, args: list[str], *context: Any, **more: Any) -> Any:
        assert self.name is not None
        return load_command(self.name).make_context(info_name, args, *context, **more)


def load_command(name: str) -> Any:
    """The click command `name`: the function of that name in the module of that name, with its ``EXAMPLES`` in the help."""
    module = _module(name)
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    function = getattr(module, _word(name))
    single.command(name, help=f"{COMMANDS[name]}\n\n{module.EXAMPLES}")(function)
    return get_command(single)


def options_of(name: str) -> dict[str, str]:
    """The options of a command, such as ``--top-p``, by the arguments of Python functions that they become.

    An option is called as its argument is, but for those in the ``RENAMED`` of the command's module.
    """
    typed = [option for parameter in load_command(name).params for option in parameter.opts]
    same = {_word(option.removeprefix("--")): option for option in typed if option.startswith("--")}
    return same | getattr(_module(name), "RENAMED", {})


def _module(name: str) -> ModuleType:
    return import_module(f"latent_ext.cli.{_word(name)}")


def _word(name: str) -> str:
    return name.replace("-", "_")
