"""Problem files: JSONL or a JSON list of objects with `question` and, where there is a gold, `answer`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from latent_ext.assets import SHIPPED_PROBLEMS


class ProblemError(ValueError):
    """A problem file that cannot be read; the message names the line."""


@dataclass(frozen=True)
class NamedProblem:
    """A question, its name in the file, and its gold answer (None where the file gives none)."""

    id: str
    question: str
    answer: str | None


def read_problems(source: str | Path | TextIO) -> list[NamedProblem]:
    """Problems of a file.

    Args:
        source: path of a .jsonl file (one object or one plain JSON string per line), of a .json file (a list), or an
            open text stream of JSON lines.

    Raises:
        ProblemError: naming the file and line, for anything that is not a problem.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProblemError(f"file: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        name = str(path)
        if path.suffix == ".json":
            try:
                listed = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ProblemError(f"file: {name} is not JSON: {error}") from None
            if not isinstance(listed, list):
                raise ProblemError(f"file: {name} holds {type(listed).__name__}; a list of problems is needed")
            return [_problem(item, f"{name}, item {place}", str(place)) for place, item in enumerate(listed)]
    else:
        text, name = source.read(), getattr(source, "name", "input")
    return list(_lines(text, name))


def shipped_problems(split: str, limit: int | None = None) -> list[NamedProblem]:
    """Held-out problems in the package.

    Raises:
        ProblemError: for an unknown split, naming those there are.
    """
    path = SHIPPED_PROBLEMS / f"{split}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SHIPPED_PROBLEMS.glob("*.jsonl")))
        raise ProblemError(f"split: got {split!r}; allowed are {known}")
    return read_problems(path)[:limit]


def _lines(text: str, name: str) -> Iterator[NamedProblem]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ProblemError(f"file: {name}, line {number} is not JSON: {error}") from None
        yield _problem(item, f"{name}, line {number}", str(number))


def _problem(item: object, where: str, default_id: str) -> NamedProblem:
    if isinstance(item, str):
        item = {"question": item}
    if not isinstance(item, dict):
        raise ProblemError(f"file: {where} holds {type(item).__name__}; an object with 'question' is needed")
    question, answer = item.get("question"), item.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise ProblemError(f"file: {where} has question {question!r}; a text that is not blank is needed")
    if answer is not None and not isinstance(answer, (str, int, float)) or isinstance(answer, bool):
        raise ProblemError(f"file: {where} has answer {answer!r}; a number or its text is needed")
    return NamedProblem(str(item.get("id", default_id)), question, None if answer is None else str(answer))
