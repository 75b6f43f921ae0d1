"""The executor that a name asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from latent_ext.evaluation.executors.inline import InlineExecutor
from latent_ext.evaluation.executors.process import ProcessExecutor
from latent_ext.evaluation.executors.ray import RayExecutor
from latent_ext.evaluation.unit import Outcome, Unit
from latent_ext.evaluation.worker import Worker

EXECUTORS = ("inline", "process", "ray")


class Executor(Protocol):
    """Works on units.

    Attributes:
        name: as the command line gives it.
        workers: how many units are worked on at a time.
    """

    name: str
    workers: int

    def run(self, worker: Worker, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Outcomes in the order in which they come; `worker` is this process's own, whose recipe others load, too."""


def choose_executor(
    name: str,
    *,
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    patience: float = 60.0,
) -> Executor:
    """The executor of that name.

    Args:
        name: "inline" (this process), "process" (processes of this machine) or "ray" (a Ray cluster).
        workers: of the last two; None: one per CUDA device of a CUDA run, else one per CPU (ray: 1 CPU each).
        threads: CPU threads per worker; None: torch's own number inline, else 1.
        address: of the Ray cluster; None: RAY_ADDRESS, else a cluster of this machine alone.
        patience: seconds to wait for the Ray cluster.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    for argument, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{argument}: got {value}; at least 1 is needed")
    if address is not None and name != "ray":
        raise ValueError(f"ray-address: got {address!r} with executor {name!r}; it belongs to executor 'ray'")
    if name == "inline":
        if workers not in (None, 1):
            raise ValueError(f"workers: got {workers} with executor 'inline'; take --executor process")
        return InlineExecutor()
    if name == "process":
        return ProcessExecutor(workers, threads or 1)
    if name == "ray":
        return RayExecutor(workers, threads or 1, address, patience)
    raise ValueError(f"executor: got {name!r}; allowed are {', '.join(EXECUTORS)}")
