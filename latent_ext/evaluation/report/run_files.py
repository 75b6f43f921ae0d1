"""What a report reads of a run's directory. Nothing in it is trusted: a damaged file is named in one sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_ext.evaluation.analysis.of_recipe import ANALYSIS
from latent_ext.evaluation.ledger import LedgerError, Line, read_ledger
from latent_ext.evaluation.run_directory import ATTEMPTS, RECIPE, read_settings
from latent_ext.evaluation.summary import summarise


@dataclass(frozen=True)
class Run:
    """A run, read from its directory.

    Attributes:
        name: of the directory.
        settings: settings.json.
        lines: of the ledger.
        summary: tables and curves, made again from the ledger, so that they are what it holds now.
        analysis: analysis.json, or None where there is none.
        attempts: attempts.jsonl, oldest first.
        recipe: YAML text of the recipe; empty where there is none.
    """

    name: str
    settings: dict[str, Any]
    lines: list[Line]
    summary: dict[str, Any]
    analysis: dict[str, Any] | None
    attempts: list[dict[str, Any]]
    recipe: str

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets that have a result."""
        found = {line["dataset"] for line in self.lines}
        return [one["name"] for one in self.settings["datasets"] if one["name"] in found]

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the recipe."""
        return [arm["name"] for arm in self.settings["arms"]]

    def lines_of(self, dataset: str, arm: str) -> list[Line]:
        """Results of one dataset and arm, all seeds."""
        return [line for line in self.lines if (line["dataset"], line["arm"]) == (dataset, arm)]


def read_run(directory: str | Path) -> Run:
    """A run's files.

    Raises:
        LedgerError: naming the file at fault, or if the ledger holds no result.
    """
    path = Path(directory)
    settings = read_settings(path)
    lines = read_ledger(path)
    if not lines:
        raise LedgerError(f"run: {path} holds no result yet")
    known = {(d["name"], a["name"]) for d in settings["datasets"] for a in settings["arms"]}
    for line in lines:
        if (line["dataset"], line["arm"]) not in known:
            raise LedgerError(
                f"run: {path} holds a result of dataset {line['dataset']!r}, arm {line['arm']!r}, which its settings lack"
            )
    analysis = _object(path / ANALYSIS) if (path / ANALYSIS).exists() else None
    recipe = _text(path / RECIPE) if (path / RECIPE).exists() else ""
    name = path.resolve().name
    return Run(
        name, settings, lines, summarise(lines, settings), analysis, _attempts(path / ATTEMPTS), recipe
    )


def _attempts(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    listed = []
    whole, _, _ = _text(path).rpartition("\n")
    for number, text in enumerate(whole.split("\n") if whole else (), start=1):
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LedgerError(f"run: {path}, line {number} is not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise LedgerError(f"run: {path}, line {number} holds {type(entry).__name__}; an object is needed")
        listed.append(entry)
    return listed


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"run: {path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise LedgerError(f"run: {path} holds {type(found).__name__}; an object is needed")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise LedgerError(
            f"run: {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
