"""Progress on standard error, shown only for work that takes more than two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PATIENCE_SECONDS = 2.0


@contextmanager
def reporting(label: str, *, enabled: bool = True) -> Iterator[Callable[..., None]]:
    """A `progress` callback for `solve`; its bar appears after two seconds and leaves nothing behind."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trajectories"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(label, total=None)
    started = time.monotonic()
    shown = False

    def report(done: int, total: int, label: str | None = None) -> None:
        nonlocal shown
        bar.update(task, completed=done, total=total, description=label)
        if enabled and not shown and time.monotonic() - started > _PATIENCE_SECONDS and done < total:
            shown = True
            bar.start()

    try:
        yield report
    finally:
        if shown:
            bar.stop()
