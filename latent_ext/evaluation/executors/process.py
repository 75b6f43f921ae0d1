"""Processes of this machine; on CUDA one per device."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

import torch

from latent_ext.evaluation.recipe import EvaluationRecipe
from latent_ext.evaluation.unit import Outcome, Unit
from latent_ext.evaluation.worker import Worker

_worker: Worker | None = None


class ProcessExecutor:
    """Spawned processes, each with models of its own.

    Args:
        workers: how many; None: one per CUDA device of a CUDA run, else one per CPU.
        threads: CPU threads each.
    """

    name = "process"

    def __init__(self, workers: int | None, threads: int) -> None:
        self.threads = threads
        self._asked = workers
        self.workers = workers or 1

    def run(self, worker: Worker, units: Sequence[Unit]) -> Iterator[Outcome]:
        recipe = worker.recipe
        devices = visible_devices() if worker.model.device.type == "cuda" else []
        self.workers = min(self._asked or len(devices) or os.cpu_count() or 1, max(1, len(units)))
        if devices and self.workers > len(devices):
            raise ValueError(
                f"workers: got {self.workers}; there are {len(devices)} CUDA devices, one for each"
            )
        # CUDA does not survive a fork, and neither do the threads of the compiled ops.
        context = multiprocessing.get_context("spawn")
        places = context.Queue()
        for number in range(self.workers):
            places.put(devices[number] if devices else None)
        pool = ProcessPoolExecutor(self.workers, context, _start, (recipe, self.threads, places))
        try:
            yield from _finished(pool, units, 2 * self.workers)
        except BrokenProcessPool:
            raise RuntimeError(
                "executor: a worker process ended before its work was done (killed, or out of memory); "
                "what was finished is in the ledger, and the same call goes on from there"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def visible_devices() -> list[str]:
    """CUDA devices as CUDA_VISIBLE_DEVICES names them, so that a worker can be given one of this process's."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(place) for place in range(torch.cuda.device_count())]


def _finished(pool: ProcessPoolExecutor, units: Sequence[Unit], ahead: int) -> Iterator[Outcome]:
    """Outcomes as they come; no more than `ahead` units are sent off at a time, so that an interrupt waits for few."""
    waiting = iter(units)
    running: set[Future[Outcome]] = {pool.submit(_work, unit) for unit in islice(waiting, ahead)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            following = next(waiting, None)
            if following is not None:
                running.add(pool.submit(_work, following))
            yield future.result()


def _start(recipe: EvaluationRecipe, threads: int, places: Any) -> None:
    global _worker
    device = places.get()
    if device is not None:
        # Before anything touches CUDA: this process sees one device, its cuda:0.
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _worker = Worker(recipe, threads)


def _work(unit: Unit) -> Outcome:
    assert _worker is not None
    return _worker(unit)
