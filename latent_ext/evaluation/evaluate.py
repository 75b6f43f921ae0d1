"""`evaluate`: a recipe's questions answered by every arm and seed, each written down as soon as it is finished."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latent_ext._version import __version__
from latent_ext.evaluation.datasets import Dataset, load_dataset
from latent_ext.evaluation.executors import Executor, choose_executor
from latent_ext.evaluation.ledger import Key
from latent_ext.evaluation.recipe import EvaluationRecipe
from latent_ext.evaluation.run_directory import RunDirectory
from latent_ext.evaluation.settings import settings_of
from latent_ext.evaluation.summary import summarise
from latent_ext.evaluation.unit import Shard, pending_units
from latent_ext.evaluation.worker import Worker

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluated:
    """What a call did.

    Attributes:
        summary: as in summary.json.
        finished: questions finished now.
        wanted: questions that the recipe (or its shard) asks for, over all datasets, arms and seeds.
        failures: of questions that could not be answered, as in attempts.jsonl; the next call tries them again.
    """

    summary: dict[str, Any]
    finished: int
    wanted: int
    failures: list[dict[str, Any]]


def evaluate(
    recipe: EvaluationRecipe,
    out: str | Path,
    *,
    shard: Shard | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    batch: int = 32,
    force: bool = False,
    progress: Progress | None = None,
) -> Evaluated:
    """Does what `out` lacks of a recipe: questions that are missing, and those that failed.

    Args:
        recipe: from `latent_ext.evaluation.recipe.read_recipe`.
        out: directory of the run (`latent_ext.evaluation.run_directory`); a new one, or one of the same settings.
        shard: only this part of the questions; every shard has a directory of its own, and `merge_runs` joins them.
        executor: from `latent_ext.evaluation.executors.choose_executor`. Default: this process.
        threads: CPU threads of this process.
        batch: questions per call of `latent_ext.solve`; what a killed process loses at most, per worker.
        force: go on although settings have changed, see `RunDirectory`.
        progress: called with (questions done, questions in all), counted over datasets, arms and seeds.

    Raises:
        ValueError: naming the argument or the place in the recipe at fault, before anything is computed.
        LedgerError: if the directory cannot be used.
        RuntimeError: if the executor's workers cannot be had or die; what was finished is kept.
    """
    if batch < 1:
        raise ValueError(f"batch: got {batch}; at least 1 question is needed")
    shard, executor = shard or Shard(), executor or choose_executor("inline")
    worker = Worker(recipe, threads)
    datasets = [load_dataset(spec, worker.checker) for spec in recipe.datasets]
    for arm in recipe.arms:
        worker.solve(arm, [], recipe.seeds[0])
    expected = {key: value for key, value in _expected(recipe, datasets) if shard.holds(key[3])}
    run = RunDirectory(out, settings_of(worker, datasets), recipe.to_yaml(), expected, force=force)
    try:
        units = list(pending_units(recipe, datasets, run.done, shard, batch))
        failures: list[dict[str, Any]] = []
        before = len(run.lines)
        started = time.monotonic()
        run.log(
            {
                "event": "started",
                "missing": len(expected) - before,
                "of": len(expected),
                "shard": str(shard),
                "executor": executor.name,
                "threads": torch.get_num_threads(),
                "batch": batch,
                "host": platform.node(),
                "pid": os.getpid(),
                "version": __version__,
                "torch": torch.__version__,
            }
        )
        if progress is not None:
            progress(before, len(expected))
        for outcome in executor.run(worker, units) if units else ():
            run.append(outcome.lines)
            for failure in outcome.failures:
                run.log({"event": "failed", **failure})
            failures += outcome.failures
            first = (outcome.lines or outcome.failures)[0]
            place = {key: first[key] for key in ("dataset", "arm", "seed")}
            done = {"questions": len(outcome.lines), "seconds": outcome.seconds}
            run.log({"event": "batch", **place, **done, **outcome.worker})
            if progress is not None:
                progress(len(run.lines) + len(failures), len(expected))
        if len(run.lines) + len(failures) != len(expected):
            raise RuntimeError(
                f"executor: {executor.name!r} gave {len(run.lines) + len(failures)} results of {len(expected)}; what "
                "came is in the ledger, and the same call goes on from there"
            )
        summary = summarise(run.lines, run.settings)
        run.finish(summary, [one.name for one in datasets], [arm.name for arm in recipe.arms])
        finished = len(run.lines) - before
        run.log(
            {
                "event": "finished",
                "questions": finished,
                "failed": len(failures),
                "workers": executor.workers,
                "seconds": round(time.monotonic() - started, 3),
            }
        )
        return Evaluated(summary, finished, len(expected), failures)
    finally:
        run.close()


def _expected(recipe: EvaluationRecipe, datasets: Sequence[Dataset]) -> list[tuple[Key, tuple[str, str]]]:
    """Id and gold of everything that a recipe asks for."""
    return [
        ((dataset.name, arm.name, seed, index), (problem.id, problem.answer or ""))
        for dataset in datasets
        for arm in recipe.arms
        for seed in recipe.seeds
        for index, problem in enumerate(dataset.problems)
    ]
