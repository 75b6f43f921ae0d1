"""Latent sampling, token sampling and an explicit chain of thought at equal operations and at equal time.

    python bench/chain_model.py --out build/chain_model --minutes 9
    python bench/equal_compute.py --chain build/chain_model --store build/equal --problems 200 --seeds 3

Every way draws N = 64 once per problem and seed. Its accuracy at n is that of the first n, n+1 to 2n, ... averaged; its
operations at n are counted from the same trajectories (`latent_ext.engine.flops`), and its time at n is that of a run of
its own with n trajectories on a few problems. Writes a table per split, a CSV and a figure. Pools are kept in the store,
a file per way and seed, and not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latent_ext
from latent_ext.engine.flops import cost_of
from latent_ext.evaluation.metrics import correct_flags, estimate, pass_at_k, selected_accuracy
from latent_ext.evaluation.problems import NamedProblem, shipped_problems
from latent_ext.evaluation.statistics import paired_differences
from latent_ext.models.latent_model import LatentModel
from latent_ext.search import Result, majority_vote

SIZES = (1, 2, 4, 8, 16, 32, 64)
METHODS = ("majority", "coverage")
MAX_TOKENS = 100
_TIMED_PROBLEMS, _TIMED_REPEATS = 10, 3
# Costs that differ by less count as equal: without it noise and dropout at one N would not be compared.
_SLACK = 1.1


@dataclass(frozen=True)
class Way:
    """One way of spending compute: which model, and the keywords of `latent_ext.solve`."""

    name: str
    chain: bool
    settings: dict[str, Any]


WAYS = (
    Way("latent, noise 0.6", False, {"sampler": "noise:0.6:relative"}),
    Way("latent, dropout 0.2", False, {"sampler": "dropout:0.2"}),
    Way("answer tokens, temperature 1", False, {"sampler": "none", "temperature": 1.0}),
    Way("explicit chain, temperature 1", True, {"sampler": "none", "temperature": 1.0}),
)


def first_of(result: Result, n: int) -> Result:
    """The run of the first n trajectories."""
    return Result(result.question, result.trajectories[:n], result.select, None, {}, result.settings)


def pool(way: Way, model: LatentModel, problems: Sequence[NamedProblem], seed: int) -> list[dict[str, Any]]:
    """Per problem and n: accuracy of each method, and operations."""
    questions = [problem.question for problem in problems]
    results = latent_ext.solve(
        model, questions, n=SIZES[-1], decode="all", seed=seed, max_answer_tokens=MAX_TOKENS, **way.settings
    )
    rows = []
    for problem, result in zip(problems, results, strict=True):
        gold = str(problem.answer)
        right = sum(correct_flags(result, gold))
        rows.append(
            {
                "majority": [selected_accuracy(majority_vote, result, gold, n) for n in SIZES],
                "coverage": [pass_at_k(SIZES[-1], right, n) for n in SIZES],
                "flops": [cost_of(model, None, first_of(result, n)).flops for n in SIZES],
            }
        )
    return rows


def seconds(way: Way, model: LatentModel, problems: Sequence[NamedProblem]) -> list[float]:
    """CPU seconds per problem at every n: the fastest of a few runs."""
    questions = [problem.question for problem in problems[:_TIMED_PROBLEMS]]
    found = []
    for n in SIZES:
        times = []
        for _ in range(_TIMED_REPEATS):
            start = time.process_time()
            latent_ext.solve(
                model, questions, n=n, decode="all", max_answer_tokens=MAX_TOKENS, **way.settings
            )
            times.append(time.process_time() - start)
        found.append(min(times) / len(questions))
    return found


def stored(path: Path, make: Any) -> Any:
    """What the file holds, or what `make` gives, which the file then holds."""
    if not path.exists():
        text = json.dumps(make())
        partial = path.with_suffix(".part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def affordable(costs: Sequence[float], budget: float) -> int | None:
    """Place of the largest n that costs about `budget` or less; None where n = 1 costs more."""
    return max((place for place, cost in enumerate(costs) if cost <= budget * _SLACK), default=None)


def greedy(model: LatentModel, problems: Sequence[NamedProblem]) -> list[list[float]]:
    """[1][problems], whether the noise-free answer is right."""
    results = latent_ext.solve(
        model, [one.question for one in problems], n=1, sampler="none", max_answer_tokens=MAX_TOKENS
    )
    return [[float(correct_flags(r, str(p.answer))[0]) for r, p in zip(results, problems, strict=True)]]


def cell(values: np.ndarray) -> str:
    found = estimate(values.tolist())
    low, high = found.interval
    return f"{100 * found.mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def print_table(
    names: Sequence[str], costs: dict[str, list[float]], values: dict[str, np.ndarray], unit: str, method: str
) -> None:
    """One line per budget: that of the noise at each N, or less. Differences are against the noise, paired over problems."""
    noise, *others = names
    print(f"\n{method} at equal {unit}\n")
    print(f"| {unit} | {noise} | " + " | ".join(others) + " |")
    print("|---" * (1 + len(names)) + "|")
    for place, n in enumerate(SIZES):
        budget = costs[noise][place]
        base = values[noise][:, :, place]
        cells = [f"N={n}: {cell(base)}"]
        for name in others:
            own = affordable(costs[name], budget)
            if own is None:
                cells.append(f"N=1 costs {costs[name][0]:.3g}")
                continue
            mine = values[name][:, :, own]
            pairs = (mine - base).mean(axis=0)[:, None]
            reading = paired_differences(pairs, base.shape[0])[0].reading
            cells.append(f"N={SIZES[own]}: {cell(mine)}, {reading}")
        print(f"| {budget:.3g} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chain", type=Path, required=True, help="from bench/chain_model.py")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--split", default="test_5")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.store.mkdir(parents=True, exist_ok=True)
    problems = shipped_problems(arguments.split, arguments.problems)
    latent = latent_ext.load()
    chain = latent_ext.load(arguments.chain, family="coconut", latent_length=0)
    values: dict[str, dict[str, np.ndarray]] = {method: {} for method in METHODS}
    gigaflop: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    lines = []
    for number, way in enumerate(WAYS):
        model = chain if way.chain else latent
        stem = f"{arguments.split}-{len(problems)}-{model.weights_hash}-{number}"
        seeds = [
            stored(
                arguments.store / f"{stem}-{seed}.json",
                lambda s=seed, w=way, m=model: pool(w, m, problems, s),
            )
            for seed in range(arguments.seeds)
        ]
        for method in METHODS:
            values[method][way.name] = np.array([[row[method] for row in rows] for rows in seeds])
        flops = np.array([[row["flops"] for row in rows] for rows in seeds])
        gigaflop[way.name] = (flops.mean(axis=(0, 1)) / 1e9).tolist()
        times[way.name] = stored(
            arguments.store / f"{stem}-time.json", lambda w=way, m=model: seconds(w, m, problems)
        )
        for place, n in enumerate(SIZES):
            both = [float(values[method][way.name][:, :, place].mean()) for method in METHODS]
            lines.append([way.name, n, gigaflop[way.name][place], times[way.name][place], *both])
        print(
            f"{way.name}: {gigaflop[way.name][-1]:.3f} GFLOP, {times[way.name][-1]:.4f} CPU s at N=64",
            flush=True,
        )
    for name, model in (("latent", latent), ("explicit chain", chain)):
        kept = arguments.store / f"{arguments.split}-{len(problems)}-{model.weights_hash}-greedy.json"
        print(f"greedy, {name}: {cell(np.array(stored(kept, lambda m=model: greedy(m, problems))))}")
    names = [way.name for way in WAYS]
    for unit, costs in (("GFLOP per problem", gigaflop), ("CPU seconds per problem", times)):
        for method in METHODS:
            print_table(names, costs, values[method], unit, method)
    stem = f"equal_compute_{arguments.split}"
    with (arguments.folder / f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["way", "n", "gflop", "cpu_seconds", *METHODS], *lines])
    draw(names, gigaflop, times, values, arguments.folder / f"{stem}.png")


def draw(
    names: Sequence[str],
    gigaflop: dict[str, list[float]],
    times: dict[str, list[float]],
    values: dict[str, dict[str, np.ndarray]],
    path: Path,
) -> None:
    """Accuracy over operations (left) and over time (right), a row per method; bands are 95 % intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    colours = ("#4477aa", "#66ccee", "#228833", "#ee6677")
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), sharex="col", sharey="row", layout="constrained")
    columns = (("GFLOP per problem", gigaflop), ("CPU seconds per problem", times))
    for row, method in zip(axes, METHODS, strict=True):
        for axis, (unit, costs) in zip(row, columns, strict=True):
            for name, colour in zip(names, colours, strict=True):
                found = [estimate(values[method][name][:, :, place].tolist()) for place in range(len(SIZES))]
                low, high = zip(*(one.interval for one in found), strict=True)
                axis.plot(
                    costs[name], [100 * one.mean for one in found], "o-", color=colour, label=name, ms=4
                )
                axis.fill_between(
                    costs[name],
                    [100 * v for v in low],
                    [100 * v for v in high],
                    color=colour,
                    alpha=0.12,
                    lw=0,
                )
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
            if method == METHODS[-1]:
                axis.set_xlabel(unit)
        row[0].set_ylabel(f"{method}, %")
    axes[0, 0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
