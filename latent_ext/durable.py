"""Writing text so that it outlives a crash: renamed into place, or appended, and on the disk when a call returns."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once: a reader sees the old text or the new."""
    making = path.with_name(f"{path.name}.tmp")
    with making.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    making.rename(path)
    sync_directory(path.parent)


def append_text(path: Path, text: str) -> None:
    """Adds text at the end; of a crash in between, what is left may be torn."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Names of a directory outlive a crash, too."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
