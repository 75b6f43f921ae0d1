"""Ray Data: pending units as items, actors that hold the models, the ledger with the driver. Extra ``ray``.

Ray's own checkpoints are not used: they need storage that all nodes share and lose up to a block; the ledger does not.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from latent_ext.evaluation.recipe import EvaluationRecipe, as_recipe
from latent_ext.evaluation.unit import Outcome, Unit
from latent_ext.evaluation.worker import Worker

_OBJECT_STORE_BYTES = 256 << 20


class RayExecutor:
    """Actors on a Ray cluster, which must have this package and the recipe's files on every node.

    Args:
        workers: actors; None: as many as the cluster's CPUs (or GPUs, for a CUDA run) allow.
        threads: CPU threads, and Ray CPUs, of each.
        address: of the cluster; None: RAY_ADDRESS, else a cluster of this machine alone.
        patience: seconds to wait for the cluster, and for it to have what the actors need.
    """

    name = "ray"

    def __init__(self, workers: int | None, threads: int, address: str | None, patience: float) -> None:
        self.threads, self.patience = threads, patience
        self.address = address or os.environ.get("RAY_ADDRESS")
        self._asked = workers
        self.workers = workers or 1

    def run(self, worker: Worker, units: Sequence[Unit]) -> Iterator[Outcome]:
        ray = _ray()
        gpus = 1 if worker.model.device.type == "cuda" else 0
        own = not ray.is_initialized()
        if own:
            self._connect(ray)
        try:
            self.workers = self._room(ray, gpus, len(units))
            recipe = json.dumps(worker.recipe.to_dict())
            rows = [{"unit": json.dumps(unit.to_dict())} for unit in units]
            # from_items: no read stage, which would wait for a CPU that the actors hold (ray issue 44687).
            outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=self.workers),
                fn_constructor_args=(recipe, self.threads),
                num_cpus=self.threads,
                num_gpus=gpus,
            )
            for row in outcomes.iter_rows():
                yield Outcome(**json.loads(row["outcome"]))
        finally:
            if own:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        """Starts or finds a cluster, within `patience`."""
        environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "OMP_NUM_THREADS": str(self.threads)}
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": environment},
            "logging_level": "ERROR",
            "log_to_driver": False,
        }
        if self.address is None:
            settings |= {
                "num_cpus": os.cpu_count(),
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
            }
        else:
            settings["address"] = self.address
        failed: list[BaseException] = []

        def connect() -> None:
            try:
                ray.init(**settings)
            except BaseException as error:
                failed.append(error)

        # ray.init itself may wait for ever on an address where something else listens.
        waiting = threading.Thread(target=connect, daemon=True)
        waiting.start()
        waiting.join(self.patience)
        where = self.address or "this machine"
        if waiting.is_alive():
            raise RuntimeError(f"ray-address: no Ray cluster at {where} within {self.patience:g} seconds")
        if failed:
            reason = " ".join(str(failed[0]).split())[:200]
            raise RuntimeError(f"ray-address: no Ray cluster at {where}: {reason}")

    def _room(self, ray: Any, gpus: int, units: int) -> int:
        """How many actors to ask for.

        Raises:
            ValueError: if more were asked for than the nodes have room for: Ray would wait for it without a word.
        """
        deadline = time.monotonic() + self.patience
        while True:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            room = sum(_actors_on(node, self.threads, gpus) for node in nodes)
            if room >= (self._asked or 1) or time.monotonic() > deadline or self.address is None:
                break
            time.sleep(0.5)
        if room < (self._asked or 1):
            cpus = [int(node.get("CPU", 0)) for node in nodes]
            raise ValueError(
                f"workers: got {self._asked or 1} of {self.threads} CPUs{' and a GPU' if gpus else ''} each; the "
                f"cluster's nodes have {', '.join(map(str, cpus)) or 'no'} CPUs, which is room for {room}"
            )
        return min(self._asked or room, max(1, units))


class _Actor:
    """A worker inside a Ray actor; units and outcomes travel as JSON."""

    def __init__(self, recipe: str, threads: int) -> None:
        self._worker = Worker(_recipe(recipe), threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        outcomes = [self._worker(Unit.from_dict(json.loads(text))) for text in batch["unit"]]
        return {"outcome": [json.dumps(asdict(outcome)) for outcome in outcomes]}


def _recipe(text: str) -> EvaluationRecipe:
    return as_recipe(json.loads(text))


def _actors_on(node: dict[str, float], cpus: int, gpus: int) -> int:
    room = math.floor(node.get("CPU", 0.0) / cpus)
    return min(room, math.floor(node.get("GPU", 0.0) / gpus)) if gpus else room


def _ray() -> Any:
    # Read when ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ValueError(
            f"executor: 'ray' needs the extra 'ray': pip install 'latent_ext[ray]' ({error})"
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    return ray
