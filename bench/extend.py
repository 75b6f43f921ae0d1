"""The adaptive budget with and without continued rivals, on the shipped model: accuracy and thoughts, paired by question.

A question's value is its mean over seeds; intervals are 95 % percentiles of a bootstrap over questions. Both runs have the
same first round.

    python bench/extend.py --splits test_5,test_6 --seeds 2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from quality import correct, paired_bootstrap
from search_table import points

import latent_ext
from latent_ext.cli.progress import reporting
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.models.latent_model import LatentModel
from latent_ext.search import Result

_HEADS = (
    "split", "n at most", "accuracy", "extended", "difference (points)", "trajectories", "extended", "thoughts", "extended",
    "difference", "continuations",
)  # fmt: skip


def main(
    splits: Annotated[str, typer.Option(help="Shipped problems, comma-separated.")] = "test_5,test_6",
    sizes: Annotated[str, typer.Option(help="Ceilings n, comma-separated.")] = "16,64",
    sampler: Annotated[str, typer.Option()] = "noise:0.6:relative",
    reward: Annotated[str, typer.Option(help="What `load_reward` takes.")] = "shipped",
    limit: Annotated[int, typer.Option(help="Problems of each split.")] = 500,
    seeds: Annotated[int, typer.Option(help="Run seeds 0, 1, ...")] = 2,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    model, judge = latent_ext.load(), latent_ext.load_reward(reward)
    print("| " + " | ".join(_HEADS) + " |\n" + "|---" * len(_HEADS) + "|")
    for split in splits.split(","):
        problems = shipped_problems(split, limit)
        questions, golds = zip(*((one.question, str(one.answer)) for one in problems), strict=True)
        for n in map(int, sizes.split(",")):
            runs: list[list[list[Result]]] = []
            for extend in (False, True):
                how = {"n": n, "extend": extend, "sampler": sampler, "reward": judge}
                runs.append([solved(model, questions, seed=seed, **how) for seed in range(seeds)])
            print(row(split, n, runs, golds), flush=True)


def solved(model: LatentModel, questions: Sequence[str], **how: Any) -> list[Result]:
    """One adaptive run."""
    with reporting(f"n = {how['n']}, seed {how['seed']}") as report:
        return latent_ext.solve(model, questions, select="adaptive", progress=report, **how)


def row(split: str, n: int, runs: list[list[list[Result]]], golds: Sequence[str]) -> str:
    """A line of the table; `runs` holds the results without and with continuations, by seed."""
    right = [np.mean([correct(results, golds) for results in own], axis=0) for own in runs]
    thoughts = [np.mean([[one.cost.thoughts for one in results] for results in own], axis=0) for own in runs]
    drawn = [[one for results in own for result in results for one in result.trajectories] for own in runs]
    gain, gain_in = paired_bootstrap(*right, seed=0)
    more, (low, high) = paired_bootstrap(*thoughts, seed=0)
    cells = [split, str(n), *(f"{100 * own.mean():.1f}" for own in right), points(gain, *gain_in)]
    cells += [f"{len(own) / right[0].size / len(runs[0]):.1f}" for own in drawn]
    cells += [*(f"{own.mean():.1f}" for own in thoughts), f"{more:+.1f}, {low:+.1f} to {high:+.1f}"]
    cells.append(f"{100 * np.mean([one.parent is not None for one in drawn[1]]):.0f} %")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    typer.run(main)
