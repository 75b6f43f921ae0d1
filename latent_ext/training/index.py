"""The index of a label directory: one line of JSON per question, with the part that holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INDEX = "index.jsonl"


class LabelError(ValueError):
    """A label directory that cannot be used; the message names the file."""


def index_lines(directory: Path) -> list[dict[str, Any]]:
    """Lines of the index; a last one that was torn off is left out."""
    path = directory / INDEX
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines = []
    for number, text in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            line = json.loads(text)
            part, named = line["part"], isinstance(line["part"], str)
            known = all(isinstance(line[name], int) for name in ("place", "row", "of"))
            known = known and isinstance(line["answers"], list) and isinstance(line["gold"], str)
        except (ValueError, KeyError, TypeError):
            raise LabelError(f"directory: {path}, line {number} is no line of an index") from None
        if not (named and known and part == f"part-{part[5:13]}.safetensors" and part[5:13].isdigit()):
            raise LabelError(f"directory: {path}, line {number} is no line of an index")
        lines.append(line)
    return lines


def whole_parts(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of the parts that the index holds completely: the last part's lines may end early."""
    held: dict[str, int] = {}
    for line in lines:
        held[line["part"]] = held.get(line["part"], 0) + 1
    return [line for line in lines if held[line["part"]] == line["of"]]
