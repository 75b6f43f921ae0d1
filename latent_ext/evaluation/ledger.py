"""The ledger of a run: one line of JSON per finished (dataset, arm, seed, question), results only.

Lines are appended and synced as they are finished, so a process that is killed leaves at most a torn last line, which
readers leave out and writers cut off. A line holds nothing that depends on when, where or beside what it was computed:
runs that were interrupted, sharded or spread over machines have the same lines, and in canonical order the same bytes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from latent_ext.durable import append_text, write_text
from latent_ext.recipes import shown

LEDGER = "ledger.jsonl"
Line = dict[str, Any]
Key = tuple[str, str, int, int]


class LedgerError(ValueError):
    """A ledger that cannot be used; the message names the file and line."""


def key_of(line: Line) -> Key:
    """(dataset, arm, seed, index): what a line is the result of."""
    return line["dataset"], line["arm"], line["seed"], line["index"]


def line_text(line: Line) -> str:
    """The line as it is written; floats in Python's shortest exact form."""
    return json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def read_ledger(directory: str | Path) -> list[Line]:
    """Finished lines of a run, in the order in which they were written; a torn last one is left out.

    Raises:
        LedgerError: naming file and line, for what is no line of a ledger, or for two lines of one result that differ.
    """
    path = Path(directory) / LEDGER
    try:
        content = path.read_bytes() if path.exists() else b""
    except (OSError, ValueError) as error:
        raise LedgerError(f"run: {path} cannot be read: {error}") from None
    whole, _, _ = content.rpartition(b"\n")
    lines = [
        as_line(text, f"{path}, line {place}") for place, text in enumerate(whole.split(b"\n"), 1) if whole
    ]
    return without_duplicates(lines, str(path))


def without_duplicates(lines: Iterable[Line], where: str) -> list[Line]:
    """The lines, each result once.

    Raises:
        LedgerError: if two lines of one result differ: then one of them was not computed by these settings.
    """
    kept: dict[Key, Line] = {}
    for line in lines:
        key = key_of(line)
        if key in kept and kept[key] != line:
            differing = [name for name in line if line[name] != kept[key].get(name)]
            raise LedgerError(
                f"run: {where} holds two results of dataset {key[0]}, arm {key[1]}, seed {key[2]}, question {key[3]} "
                f"that differ in {', '.join(differing)}"
            )
        kept.setdefault(key, line)
    return list(kept.values())


def canonical_order(lines: Iterable[Line], datasets: Sequence[str], arms: Sequence[str]) -> list[Line]:
    """Lines in the order of the recipe's datasets, arms, seeds and of the problems."""
    dataset, arm = ({name: place for place, name in enumerate(names)} for names in (datasets, arms))
    return sorted(
        lines, key=lambda line: (dataset[line["dataset"]], arm[line["arm"]], line["seed"], line["index"])
    )


def append_lines(directory: Path, lines: Sequence[Line]) -> None:
    """Writes finished lines; when it returns they outlive a crash of the machine."""
    append_text(directory / LEDGER, "".join(line_text(line) for line in lines))


def rewrite(directory: Path, lines: Sequence[Line]) -> None:
    """Replaces the ledger at once."""
    write_text(directory / LEDGER, "".join(line_text(line) for line in lines))


def cut_torn_line(directory: Path) -> None:
    """Removes what a killed writer left behind the last whole line."""
    path = directory / LEDGER
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())


def as_line(text: bytes, where: str) -> Line:
    """The line in its text.

    Raises:
        LedgerError: naming `where`, if it is none.
    """
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"run: {where} is not JSON: {error}") from None
    if not isinstance(line, dict):
        raise LedgerError(f"run: {where} holds {shown(line)}; an object is needed")
    for name, (fits, needed) in _FIELDS.items():
        if name not in line:
            raise LedgerError(f"run: {where} lacks {name!r}")
        if not fits(line[name]):
            raise LedgerError(f"run: {where} has {name} {shown(line[name])}; {needed} is needed")
    width = len(line["answers"])
    for name in _PER_TRAJECTORY:
        if line[name] is not None and len(line[name]) != width:
            raise LedgerError(
                f"run: {where} has {len(line[name])} {name} for {width} answers; one each is needed"
            )
    if line["chosen"] is not None and line["chosen"] >= width:
        raise LedgerError(f"run: {where} chose trajectory {line['chosen']}; there are {width}")
    return line


def _number(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _or_null(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


def _list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


# In the order in which they are written.
_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "dataset": (_text, "a text"),
    "arm": (_text, "a text"),
    "seed": (_whole, "a whole number"),
    "id": (_text, "a text"),
    "index": (_count, "a whole number >= 0"),
    "question_key": (_text, "a text"),
    "gold": (_text, "a text"),
    "answers": (_list_of(_or_null(_text)), "a list of texts and nulls"),
    "correct": (_list_of(lambda value: isinstance(value, bool)), "a list of true and false"),
    "scores": (_or_null(_list_of(_or_null(_number))), "null or a list of numbers and nulls"),
    "step_scores": (
        _or_null(_list_of(_or_null(_list_of(_or_null(_number))))),
        "null or a list of lists of numbers",
    ),
    "logprobs": (_list_of(_or_null(_number)), "a list of numbers and nulls"),
    "thoughts": (_list_of(_or_null(_count)), "a list of counts"),
    "answer_tokens": (_list_of(_or_null(_count)), "a list of counts"),
    "finished": (_list_of(_or_null(lambda value: isinstance(value, bool))), "a list of true, false and null"),
    "errors": (
        lambda value: isinstance(value, dict) and all(map(_text, value.values())),
        "an object of texts",
    ),
    "chosen": (_or_null(_count), "null or a whole number >= 0"),
    "cost": (
        lambda value: isinstance(value, dict) and all(map(_or_null(_number), value.values())),
        "an object of numbers",
    ),
}
_PER_TRAJECTORY = ("correct", "scores", "step_scores", "logprobs", "thoughts", "answer_tokens", "finished")
