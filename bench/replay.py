"""Clean replay on the shipped model: how often it changes an answer, what that does to accuracy, and what it takes.

The same trajectories, the same thoughts, decoded with the masks in their caches and without. Differences are paired;
intervals are 95 % of a bootstrap over problems. CPU times are of whole runs, in turns, and only their ratio counts: the
median over turns.

    python bench/replay.py --split test_5 --sampler dropout:0.2
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Annotated

import numpy as np
import torch
import typer
from quality import paired_bootstrap

import latent_ext
from latent_ext.engine.replay import REPLAYS
from latent_ext.evaluation.metrics import correct_flags
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.search import Result


def main(
    split: Annotated[str, typer.Option(help="Shipped problems.")] = "test_5",
    sampler: Annotated[str, typer.Option()] = "dropout:0.2",
    scope: Annotated[str, typer.Option()] = "latent",
    n: Annotated[int, typer.Option(help="Trajectories per problem.")] = 16,
    limit: Annotated[int, typer.Option(help="Problems.")] = 500,
    seed: Annotated[int, typer.Option()] = 0,
    turns: Annotated[int, typer.Option(help="Runs of each kind; the first are not timed.")] = 4,
    engine: Annotated[str, typer.Option()] = "native",
) -> None:
    torch.set_num_threads(1)
    problems, model = shipped_problems(split, limit), latent_ext.load()
    questions, golds = [p.question for p in problems], [str(p.answer) for p in problems]
    found: dict[str, list[Result]] = {}
    seconds: dict[str, list[float]] = {replay: [] for replay in REPLAYS}
    for _ in range(turns):
        for replay in REPLAYS:
            start = time.process_time()
            found[replay] = latent_ext.solve(
                model, questions, n=n, sampler=sampler, scope=scope, replay=replay, engine=engine, seed=seed  # type: ignore[arg-type]
            )  # fmt: skip
            seconds[replay].append(time.process_time() - start)
    print(json.dumps({
        "split": split, "sampler": sampler, "scope": scope, "n": n, "problems": len(problems), "seed": seed,
        "engine": engine,
        "changed_answers": share(found, "answer"),
        "changed_tokens": share(found, "tokens"),
        "pass@1": compared(found, golds, pass_at_1),
        "majority": compared(found, golds, chosen_is_right),
        "cpu_ratio": round(statistics.median(
            clean / none for clean, none in zip(seconds["clean"][1:], seconds["none"][1:], strict=True)
        ), 3),
    }))  # fmt: skip


def share(found: dict[str, list[Result]], what: str) -> float:
    """Of trajectories, those whose `what` is another one after clean replay."""
    of_kind = [[getattr(one, what) for r in found[replay] for one in r.trajectories] for replay in REPLAYS]
    return round(float(np.mean([a != b for a, b in zip(*of_kind, strict=True)])), 4)


def pass_at_1(result: Result, gold: str) -> float:
    return float(np.mean(correct_flags(result, gold)))


def chosen_is_right(result: Result, gold: str) -> float:
    return float(result.chosen is not None and correct_flags(result, gold)[result.chosen])


def compared(found: dict[str, list[Result]], golds: list[str], metric) -> dict[str, float | list[float]]:  # type: ignore[no-untyped-def]
    """The metric of either kind, and what clean replay adds with its interval."""
    none, clean = (
        np.array([metric(result, gold) for result, gold in zip(found[replay], golds, strict=True)])
        for replay in REPLAYS
    )
    gain, (low, high) = paired_bootstrap(none, clean, seed=0)
    means = {"none": float(none.mean()), "clean": float(clean.mean())}
    return {key: round(value, 4) for key, value in means.items()} | {
        "clean_minus_none": [round(value, 4) for value in (gain, low, high)]
    }


if __name__ == "__main__":
    typer.run(main)
