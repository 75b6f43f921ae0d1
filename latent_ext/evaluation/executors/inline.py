"""One unit after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from latent_ext.evaluation.unit import Outcome, Unit
from latent_ext.evaluation.worker import Worker


class InlineExecutor:
    """Work in this process."""

    name = "inline"
    workers = 1

    def run(self, worker: Worker, units: Sequence[Unit]) -> Iterator[Outcome]:
        return map(worker, units)
