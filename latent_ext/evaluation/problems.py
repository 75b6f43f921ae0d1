"""Problem files: JSONL or a JSON list of objects with `question` and, where there is a gold, `answer`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeGuard

from latent_ext.assets import SHIPPED_PROBLEMS
from latent_ext.recipes import shown


class ProblemError(ValueError):
    """A problem file that cannot be read; the message names the line."""


@dataclass(frozen=True)
class NamedProblem:
    """A question, its name in the file, and its gold answer (None where the file gives none)."""

    id: str
    question: str
    answer: str | None


def read_problems(
    source: str | Path | TextIO, *, columns: Mapping[str, str] | None = None
) -> list[NamedProblem]:
    """Problems of a file.

    Args:
        source: path of a .jsonl file (one object or one plain JSON string per line), of a .json file (a
            list), or an open text stream of JSON lines.
        columns: see `as_problem`.

    Raises:
        ProblemError: naming the file and line, for anything that is not a problem.
    """
    if not isinstance(source, (str, Path)):
        name = str(getattr(source, "name", "input"))
        try:
            text = source.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ProblemError(f"file: {name} cannot be read: {error}") from None
        return list(_lines(text, name, columns))
    path = Path(source)
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ProblemError(
            f"file: {name} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if path.suffix != ".json":
        return list(_lines(text, name, columns))
    listed = _parse(text, name)
    if not isinstance(listed, list):
        raise ProblemError(f"file: {name} holds {type(listed).__name__}; a list of problems is needed")
    return [
        as_problem(item, f"{name}, item {place}", str(place), columns=columns)
        for place, item in enumerate(listed)
    ]


def shipped_problems(split: str, limit: int | None = None) -> list[NamedProblem]:
    """The first `limit` held-out problems of a split in the package, or all.

    Raises:
        ProblemError: for an unknown split, naming those there are, or a limit below 1.
    """
    known = sorted(file.stem for file in SHIPPED_PROBLEMS.glob("*.jsonl"))
    if split not in known:
        raise ProblemError(f"split: got {split!r}; allowed are {', '.join(known)}")
    if limit is not None and limit < 1:
        raise ProblemError(f"limit: got {limit}; at least 1 problem is needed")
    return read_problems(SHIPPED_PROBLEMS / f"{split}.jsonl")[:limit]


def as_problem(
    item: object, where: str, default_id: str, *, columns: Mapping[str, str] | None = None
) -> NamedProblem:
    """The problem in one parsed JSON value: an object with `question`, or the question's text alone.

    Args:
        item: what JSON gave.
        where: names the value in errors.
        default_id: name of a problem that has no `id` of its own.
        columns: what the object calls its question, answer or id, for example ``{"question": "problem"}``.

    Raises:
        ProblemError: if the value is no problem.
    """
    if isinstance(item, str):
        item = {"question": item}
    if not isinstance(item, dict):
        raise ProblemError(f"file: {where} holds {type(item).__name__}; an object with 'question' is needed")
    called = {"question": "question", "answer": "answer", "id": "id"} | dict(columns or {})
    question, answer = item.get(called["question"]), item.get(called["answer"])
    name = item.get(called["id"], default_id)
    if not _is_text(question):
        raise ProblemError(
            f"file: {where} has {called['question']} {shown(question)}; a text that is not blank is needed"
        )
    if not (answer is None or _is_number(answer) or _is_text(answer)):
        raise ProblemError(
            f"file: {where} has {called['answer']} {shown(answer)}; a number or its text is needed"
        )
    if not (_is_number(name) or _is_text(name)):
        raise ProblemError(f"file: {where} has {called['id']} {shown(name)}; a text or a number is needed")
    return NamedProblem(str(name), question, None if answer is None else str(answer))


def _lines(text: str, name: str, columns: Mapping[str, str] | None) -> Iterator[NamedProblem]:
    # Not splitlines(): JSON allows U+2028, U+0085 and their like inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            yield as_problem(_parse(line, where), where, str(number), columns=columns)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"file: {where} is not JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _is_text(value: object) -> TypeGuard[str]:
    """Text that is not blank and, unlike what JSON's \\ud800 gives, can be encoded."""
    return (
        isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
