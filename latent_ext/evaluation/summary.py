"""summary.json: tables and curves made from a ledger alone.

    {"settings_hash", "tables": [{"name", "title", "note", "columns": [{"name", "kind"}], "rows"}],
     "curves": [{"dataset", "arm", "method", "n", "mean", "low", "high"}], "versions"}

A cell of kind "share" is {"mean", "low", "high", "seeds", "problems"}, and so is one of kind "auc"; one of kind "difference"
has "detectable" and "reading" ("gain", "loss" or "no difference shown") besides. All are in [0, 1] or differences of such;
pages show shares in percent, and an AUC as it is. Any cell may be null.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latent_ext._version import __version__
from latent_ext.evaluation.ledger import Line
from latent_ext.evaluation.metrics import Estimate, estimate, within_question_auc
from latent_ext.evaluation.shares import BEST, COVERAGE, MAJORITY, WEIGHTED, Pool
from latent_ext.evaluation.statistics import Difference, paired_differences

_ACCURACY_COLUMNS = (
    ("arm", "text"), ("method", "text"), ("N", "count"), ("accuracy", "share"),
    ("against majority", "difference"), ("against greedy", "difference"),
)  # fmt: skip
_COST = ("prompt_tokens", "thoughts", "answer_tokens", "reward_positions", "flops")
_COST_COLUMNS = (("arm", "text"), *((name.replace("_", " "), "count") for name in _COST))
_REWARD_COLUMNS = (("arm", "text"), ("AUC within a question", "auc"), ("mixed questions", "count"))


@dataclass
class _Row:
    """A line of the accuracy table; values [seeds, questions] of the method and of what it is compared with."""

    arm: str
    method: str
    n: float
    values: NDArray[np.float64]
    majority: NDArray[np.float64] | None = None
    greedy: NDArray[np.float64] | None = None


def summarise(lines: Sequence[Line], settings: dict[str, Any]) -> dict[str, Any]:
    """Tables and curves of a ledger.

    A dataset's tables are over the questions that every arm and seed has finished: only they can be paired.

    Args:
        lines: of the ledger, in any order.
        settings: of the run.
    """
    tables: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for dataset in settings["datasets"]:
        pools, left_out = _pools(lines, dataset["name"], settings)
        if not pools:
            continue
        tables.append(_accuracy_table(dataset, pools, settings, left_out))
        if any(pool.scored for pool in pools.values()):
            tables.append(_reward_table(dataset["name"], pools))
        tables.append(_cost_table(dataset["name"], pools))
        curves += _curves(dataset["name"], pools, settings)
    versions = {"latent_ext": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"settings_hash": settings["hash"], "tables": tables, "curves": curves, "versions": versions}


def _pools(lines: Sequence[Line], dataset: str, settings: dict[str, Any]) -> tuple[dict[str, Pool], int]:
    """Pools by arm, and how many of the dataset's questions are left out."""
    found: dict[tuple[str, int], dict[int, Line]] = {}
    for line in lines:
        if line["dataset"] == dataset:
            found.setdefault((line["arm"], line["seed"]), {})[line["index"]] = line
    arms, seeds = [arm["name"] for arm in settings["arms"]], settings["seeds"]
    complete = set.intersection(*(set(found.get((arm, seed), {})) for arm in arms for seed in seeds))
    anywhere = set().union(*found.values()) if found else set()
    if not complete:
        return {}, len(anywhere)
    order = sorted(complete)
    pools = {arm: Pool([[found[arm, seed][index] for index in order] for seed in seeds]) for arm in arms}
    return pools, len(anywhere) - len(complete)


def _accuracy_table(
    dataset: dict[str, Any], pools: dict[str, Pool], settings: dict[str, Any], left_out: int
) -> dict[str, Any]:
    rows = _accuracy_rows(pools, settings)
    compared = [
        (place, name, row.values.mean(axis=0) - against.mean(axis=0))
        for place, row in enumerate(rows)
        for name, against in (("majority", row.majority), ("greedy", row.greedy))
        if against is not None
    ]
    seeds = len(settings["seeds"])
    found: dict[tuple[int, str], Difference] = {}
    if compared:
        intervals = paired_differences(np.stack([values for _, _, values in compared], axis=1), seeds)
        found = {(place, name): one for (place, name, _), one in zip(compared, intervals, strict=True)}
    problems = next(iter(pools.values())).problems
    note = [_detectable_note(found, problems, seeds)] if found else []
    note.append("Intervals are 95 %, over questions and seeds together, each for one comparison by itself.")
    if left_out:
        note.append(f"{left_out} questions that some arm or seed lacks are left out.")
    if problems + left_out < dataset["problems"]:
        note.append(
            f"{dataset['problems'] - problems - left_out} of {dataset['problems']} have no result yet."
        )
    return {
        "name": f"accuracy-{dataset['name']}",
        "title": f"{dataset['name']}: {problems} problems, {seeds} seed{'s' if seeds > 1 else ''}",
        "note": " ".join(note),
        "columns": [{"name": name, "kind": kind} for name, kind in _ACCURACY_COLUMNS],
        "rows": [
            [
                row.arm,
                row.method,
                row.n,
                _share(estimate(row.values.tolist()), seeds),
                _difference(found.get((place, "majority"))),
                _difference(found.get((place, "greedy"))),
            ]
            for place, row in enumerate(rows)
        ],
    }


def _accuracy_rows(pools: dict[str, Pool], settings: dict[str, Any]) -> list[_Row]:
    greedy_arm = next((arm["name"] for arm in settings["arms"] if arm["greedy"]), None)
    greedy = None if greedy_arm is None else pools[greedy_arm].chosen()
    rows: list[_Row] = []
    for arm in settings["arms"]:
        name, pool = arm["name"], pools[arm["name"]]
        if name == greedy_arm:
            rows.append(_Row(name, "greedy", 1, pool.chosen()))
        elif arm["kind"] == "pool":
            rows.append(_Row(name, "pass@1", 1, pool.share(COVERAGE, 1), greedy=greedy))
            for k in _widths(pool, settings)[1:]:
                majority = pool.share(MAJORITY, k)
                rows.append(_Row(name, COVERAGE, k, pool.share(COVERAGE, k), majority, greedy))
                rows.append(_Row(name, MAJORITY, k, majority, None, greedy))
                for method in (WEIGHTED, BEST) if pool.scored else ():
                    rows.append(_Row(name, method, k, pool.share(method, k), majority, greedy))
        else:
            rows.append(_searched(arm, pool, pools, settings, greedy))
    return rows


def _searched(
    arm: dict[str, Any],
    pool: Pool,
    pools: dict[str, Pool],
    settings: dict[str, Any],
    greedy: NDArray[np.float64] | None,
) -> _Row:
    """The one figure of an arm that searches, against majority of a pool of the same sampler and as many trajectories."""
    if arm["select"] == "beam":
        beams, candidates = arm.get("beams") or 4, arm.get("candidates") or 4
        method, n = f"beam {beams} x {candidates}", float(beams * candidates)
    else:
        method = arm["select"]
        n = float(pool.per_question(lambda line: len(line["answers"])).mean())
    alike = ("sampler", "scope", "temperature")
    peers = [
        pools[other["name"]]
        for other in settings["arms"]
        if other["kind"] == "pool" and all(other.get(key) == arm.get(key) for key in alike)
    ]
    majority = None
    if peers and peers[0].width > 1:
        majority = peers[0].share(MAJORITY, max(1, min(round(n), peers[0].width)))
    return _Row(arm["name"], method, n, pool.chosen(), majority, greedy)


def _widths(pool: Pool, settings: dict[str, Any]) -> list[int]:
    """1, the numbers of trajectories of the recipe's `at`, and all of the pool's."""
    return sorted({1, pool.width} | {k for k in settings["at"] if k <= pool.width})


def _reward_table(dataset: str, pools: dict[str, Pool]) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for name, pool in pools.items():
        by_question: dict[int, list[float]] = {}
        for row in pool.lines if pool.scored else ():
            for place, line in enumerate(row):
                value = within_question_auc(line["scores"] or [None] * len(line["correct"]), line["correct"])
                if value is not None:
                    by_question.setdefault(place, []).append(value)
        if by_question:
            means = [[sum(values) / len(values) for values in by_question.values()]]
            rows.append([name, _share(estimate(means), pool.seeds), len(by_question)])
    return {
        "name": f"reward-{dataset}",
        "title": f"{dataset}: the reward within a question",
        "note": "A coin has 0.5. Questions whose trajectories are all right or all wrong have no say.",
        "columns": [{"name": name, "kind": kind} for name, kind in _REWARD_COLUMNS],
        "rows": rows,
    }


def _cost_table(dataset: str, pools: dict[str, Pool]) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for name, pool in pools.items():
        row: list[Any] = [name]
        for key in _COST:
            known = [line["cost"].get(key) for lines in pool.lines for line in lines]
            values = [value for value in known if value is not None]
            row.append(sum(values) / len(values) if len(values) == len(known) else None)
        rows.append(row)
    return {
        "name": f"cost-{dataset}",
        "title": f"{dataset}: work per question",
        "note": "Means over questions and seeds. All answers are decoded, which best-of-N alone would not need.",
        "columns": [{"name": name, "kind": kind} for name, kind in _COST_COLUMNS],
        "rows": rows,
    }


def _curves(dataset: str, pools: dict[str, Pool], settings: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {arm["name"]: arm["kind"] for arm in settings["arms"]}
    curves = []
    for name, pool in pools.items():
        if kinds[name] != "pool" or pool.width == 1:
            continue
        for method in (COVERAGE, MAJORITY, *((WEIGHTED, BEST) if pool.scored else ())):
            widths = _widths(pool, settings)
            points = [estimate(pool.share(method, k).tolist()) for k in widths]
            curves.append(
                {
                    "dataset": dataset,
                    "arm": name,
                    "method": method,
                    "n": widths,
                    "mean": [point.mean for point in points],
                    "low": [point.interval[0] for point in points],
                    "high": [point.interval[1] for point in points],
                }
            )
    return curves


def _share(value: Estimate, seeds: int) -> dict[str, Any]:
    low, high = value.interval
    return {"mean": value.mean, "low": low, "high": high, "seeds": seeds, "problems": value.problems}


def _difference(value: Difference | None) -> dict[str, Any] | None:
    return None if value is None else {**asdict(value), "reading": value.reading}


def _detectable_note(found: dict[tuple[int, str], Difference], problems: int, seeds: int) -> str:
    texts = []
    for name in ("majority", "greedy"):
        points = sorted(100 * one.detectable for (_, against), one in found.items() if against == name)
        if points:
            span = f"{points[0]:.1f}" if points[0] == points[-1] else f"{points[0]:.1f} to {points[-1]:.1f}"
            texts.append(f"{span} points against {name}")
    return (
        f"Minimum detectable difference (80 % power, {problems} problems, {seeds} seed{'s' if seeds > 1 else ''}): "
        f"{', '.join(texts)}."
    )
