"""The file of records: one per cell of a grid, written as each is finished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Results:
    """Records on disk.

    Args:
        path: a JSON file; its folder is made.
        resume: keep what is there; else the file begins anew with the first record.

    Raises:
        ValueError: if a file to be resumed is not such a file.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        if resume and path.is_file():
            try:
                self.records = json.loads(path.read_text(encoding="utf-8"))["records"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise ValueError(
                    f"results: {path} is not a file of records; remove it, or do not resume"
                ) from None

    def holds(self, settings: dict[str, Any]) -> bool:
        """Whether a record with these settings is there."""
        return any(record["settings"] == settings for record in self.records)

    def add(self, record: dict[str, Any]) -> None:
        """Appends a record; an interruption leaves the old file or the new one, never half of one."""
        self.records.append(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        text = json.dumps({"records": self.records}, indent=1, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
        os.replace(draft, self.path)
