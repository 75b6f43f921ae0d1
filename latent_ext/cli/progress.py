"""Progress on standard error, shown only for work that takes more than two seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic as _now
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PATIENCE_SECONDS = 2.0


class Report(Protocol):
    """Called with (units done, units in all)."""

    def __call__(self, done: int, total: int, label: str | None = None) -> None: ...


@contextmanager
def reporting(label: str, *, since: float | None = None, unit: str = "trajectories") -> Iterator[Report]:
    """A `progress` callback for `solve`; its bar appears after two seconds and leaves nothing behind.

    Args:
        label: what stands before the bar.
        since: `time.monotonic()` at which the work began, where it began before this call.
        unit: what is counted.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # Else what is printed to standard output under the bar would land on this console, standard error.
        redirect_stdout=False,
    )
    task = bar.add_task(label, total=None)
    started = _now() if since is None else since
    shown = False

    def report(done: int, total: int, label: str | None = None) -> None:
        nonlocal shown
        bar.update(task, completed=done, total=total, description=label)
        late = _now() - started > _PATIENCE_SECONDS
        if console.is_terminal and not shown and late and done < total:
            shown = True
            bar.start()

    try:
        yield report
    finally:
        if shown:
            bar.stop()
