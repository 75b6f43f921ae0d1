"""Two runs side by side: paired differences on the questions that they share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_ext.evaluation.ledger import Line
from latent_ext.evaluation.metrics import estimate
from latent_ext.evaluation.report.run_files import Run
from latent_ext.evaluation.shares import BEST, COVERAGE, MAJORITY, WEIGHTED, Pool
from latent_ext.evaluation.statistics import paired_differences

COLUMNS = (
    ("dataset", "text"), ("arm", "text"), ("method", "text"), ("N", "count"), ("questions", "count"),
    ("first run", "share"), ("second run", "share"), ("second - first", "difference"),
)  # fmt: skip


def difference_table(first: Run, second: Run) -> dict[str, Any] | None:
    """Table of second minus first for every dataset, arm and method that both have; None where they share no question.

    A question is shared where dataset, place, id and gold are the same. Each is averaged over the seeds of its own run;
    runs with the same sampler and seed also share their random numbers, which makes the difference sharper.
    """
    rows: list[list[Any]] = []
    for dataset in first.datasets:
        for arm in first.arms:
            rows += _arm_rows(first, second, dataset, arm)
    if not rows:
        return None
    detectable = sorted(100 * row[-1]["detectable"] for row in rows)
    return {
        "name": "difference",
        "title": f"{second.name} against {first.name}, on the questions that both answered",
        "note": f"Minimum detectable difference (80 % power): {detectable[0]:.1f} to {detectable[-1]:.1f} points. "
        "Intervals are 95 %, paired over questions (seeds averaged inside each), each for one comparison by itself.",
        "columns": [{"name": name, "kind": kind} for name, kind in COLUMNS],
        "rows": rows,
    }


def _arm_rows(first: Run, second: Run, dataset: str, arm: str) -> list[list[Any]]:
    pools = []
    tables = [_by_question(run.lines_of(dataset, arm), run.settings["seeds"]) for run in (first, second)]
    shared = sorted(tables[0].keys() & tables[1].keys())
    if not shared:
        return []
    for table in tables:
        pools.append(Pool([list(lines) for lines in zip(*(table[key] for key in shared), strict=True)]))
    widest = min(pool.width for pool in pools)
    methods = [(MAJORITY, widest), (COVERAGE, widest)]
    if all(pool.scored for pool in pools):
        methods += [(WEIGHTED, widest), (BEST, widest)]
    searches = any(
        one["name"] == arm and one["kind"] != "pool"
        for run in (first, second)
        for one in run.settings["arms"]
    )
    if searches or widest == 1:
        figures = {"own choice": [pool.chosen() for pool in pools]}
    else:
        figures = {"pass@1": [pool.share(COVERAGE, 1) for pool in pools]}
        figures |= {m: [pool.share(m, k) for pool in pools] for m, k in methods}
    seeds = min(pool.seeds for pool in pools)
    differences = [after.mean(axis=0) - before.mean(axis=0) for before, after in figures.values()]
    found = paired_differences(np.stack(differences, axis=1), seeds)
    rows = []
    for (method, (before, after)), one in zip(figures.items(), found, strict=True):
        cell = {
            "mean": one.mean, "low": one.low, "high": one.high, "seeds": one.seeds, "problems": one.problems,
            "detectable": one.detectable, "reading": one.reading,
        }  # fmt: skip
        width = 1 if method == "pass@1" else widest
        shares = [_share(pool, values) for pool, values in zip(pools, (before, after), strict=True)]
        rows.append([dataset, arm, method, width, len(shared), *shares, cell])
    return rows


def _share(pool: Pool, values: NDArray[np.float64]) -> dict[str, Any]:
    value = estimate(values.tolist())
    low, high = value.interval
    return {"mean": value.mean, "low": low, "high": high, "seeds": pool.seeds, "problems": value.problems}


def _by_question(lines: list[Line], seeds: list[int]) -> dict[tuple[int, str, str], list[Line]]:
    """Lines of every seed by (place, id, gold), for the questions that all seeds have answered."""
    found: dict[tuple[int, str, str], dict[int, Line]] = {}
    for line in lines:
        found.setdefault((line["index"], line["id"], line["gold"]), {})[line["seed"]] = line
    return {
        key: [of[seed] for seed in seeds] for key, of in found.items() if all(seed in of for seed in seeds)
    }
