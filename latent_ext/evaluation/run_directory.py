"""The directory of a run: settings that must not change, a ledger that only grows, and a diary of how it came about.

recipe.yaml      the recipe as run
settings.json    what results depend on (`latent_ext.evaluation.settings`)
ledger.jsonl     results (`latent_ext.evaluation.ledger`)
attempts.jsonl   times, hosts, processes, failures, how the work was cut; of no consequence
summary.json     tables and curves made from the ledger
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from latent_ext.durable import append_text, write_text
from latent_ext.evaluation import ledger
from latent_ext.evaluation.ledger import Key, LedgerError, Line, key_of
from latent_ext.evaluation.settings import differences, settings_hash

SETTINGS, RECIPE, ATTEMPTS, SUMMARY = "settings.json", "recipe.yaml", "attempts.jsonl", "summary.json"
SET_ASIDE = "set-aside.jsonl"


class RunDirectory:
    """A run, open for one writer.

    Args:
        directory: made where it does not exist.
        settings: of the run; those of a directory that exists must be the same.
        recipe: YAML text.
        expected: id and gold of every result that these settings ask for.
        force: go on although the settings have changed. Results of the same question, arm and seed are kept, whatever
            computed them; what these settings do not ask for goes to ``set-aside.jsonl``.

    Raises:
        LedgerError: if another process writes here, the ledger is damaged, or the directory belongs to other settings,
            naming them. Nothing is changed then.
    """

    def __init__(
        self,
        directory: str | Path,
        settings: dict[str, Any],
        recipe: str,
        expected: dict[Key, tuple[str, str]],
        *,
        force: bool = False,
    ) -> None:
        self.path = Path(directory)
        self.settings = settings
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The lock goes with the process, however it ends.
            self._lock = (self.path / ".lock").open("w")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LedgerError(f"out: {self.path} cannot be written: {reason}") from None
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LedgerError(f"out: another process writes to {self.path}") from None
            changed = self._changed()
            if changed and not force:
                raise LedgerError(
                    f"out: {self.path} was made with other settings: {'; '.join(changed)}; take another --out, or --force"
                )
            self.lines = self._belonging(ledger.read_ledger(self.path), expected, force)
            ledger.cut_torn_line(self.path)
            write_text(self.path / RECIPE, recipe)
            write_text(self.path / SETTINGS, json.dumps(settings, indent=2, sort_keys=True) + "\n")
            if changed:
                self.log({"event": "forced", "changed": changed})
        except BaseException:
            self._lock.close()
            raise

    @property
    def done(self) -> set[Key]:
        """Results that are there."""
        return {key_of(line) for line in self.lines}

    def append(self, lines: Sequence[Line]) -> None:
        """Adds finished lines; when it returns they outlive a crash."""
        if lines:
            ledger.append_lines(self.path, lines)
            self.lines += lines

    def finish(self, summary: dict[str, Any], datasets: Sequence[str], arms: Sequence[str]) -> None:
        """Puts the ledger in canonical order, in which runs of the same settings are the same bytes."""
        self.lines = ledger.canonical_order(self.lines, datasets, arms)
        ledger.rewrite(self.path, self.lines)
        write_text(self.path / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")

    def log(self, entry: dict[str, Any]) -> None:
        """One line of attempts.jsonl."""
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        append_text(self.path / ATTEMPTS, json.dumps({"at": at, **entry}) + "\n")

    def close(self) -> None:
        """Lets another process write."""
        self._lock.close()

    def _changed(self) -> list[str]:
        if (self.path / SETTINGS).exists():
            found = read_settings(self.path)
            return differences(found, self.settings) if found["hash"] != self.settings["hash"] else []
        if (self.path / ledger.LEDGER).exists():
            return [f"{SETTINGS} is missing"]
        return []

    def _belonging(self, lines: list[Line], expected: dict[Key, tuple[str, str]], force: bool) -> list[Line]:
        belonging = [line for line in lines if expected.get(key_of(line)) == (line["id"], line["gold"])]
        others = [line for line in lines if expected.get(key_of(line)) != (line["id"], line["gold"])]
        if others and not force:
            raise LedgerError(
                f"out: {self.path} holds {len(others)} results that its recipe does not ask for, the first of dataset "
                f"{others[0]['dataset']}, arm {others[0]['arm']}, question {others[0]['id']}"
            )
        if others:
            append_text(self.path / SET_ASIDE, "".join(map(ledger.line_text, others)))
            ledger.rewrite(self.path, belonging)
        return belonging


def read_settings(directory: str | Path) -> dict[str, Any]:
    """settings.json of a run.

    Raises:
        LedgerError: if there is none that can be read, or it was changed by hand.
    """
    path = Path(directory) / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LedgerError(
            f"run: {path} cannot be read: {reason}; the directory of a run of latent-ext evaluate is needed"
        ) from None
    if not isinstance(settings, dict) or not isinstance(settings.get("hash"), str):
        raise LedgerError(f"run: {path} holds no settings with a hash")
    if settings["hash"] != settings_hash(settings):
        raise LedgerError(f"run: {path} does not have the hash that it states; it was changed after the run")
    for name, keys in (("datasets", ("name", "problems")), ("arms", ("name", "kind", "greedy"))):
        listed = settings.get(name)
        whole = isinstance(listed, list) and all(
            isinstance(one, dict) and set(keys) <= {*one} for one in listed
        )
        if not whole:
            raise LedgerError(f"run: {path} has no {name} with {', '.join(keys)}")
    for name in ("seeds", "at"):
        if not isinstance(settings.get(name), list):
            raise LedgerError(f"run: {path} has no list of {name}")
    return settings
