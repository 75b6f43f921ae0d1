"""The shipped model on problems with one controlled shift each: the table of docs/evaluation.md.

    python bench/shift_table.py --problems 300 --seeds 3 --store build/shifts

Cells are percent with 95 % intervals over problems and seeds.
Finished (shift, seed) pairs are kept in the store and not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import latent_ext
from latent_ext.assets import SHIPPED_SAMPLER
from latent_ext.evaluation.metrics import Estimate, correct_flags, estimate
from latent_ext.evaluation.shifts import SHIFTS, problems
from latent_ext.search import best_of_n, majority_vote

N = 64
METHODS = ("greedy", "pass@1", f"coverage@{N}", f"best-of-{N}", f"majority@{N}")


def measure(shift: str, seed: int, count: int, loaded: dict[str, Any]) -> list[dict[str, float]]:
    """Per problem, whether each method is right (pass@1: the share of trajectories that are)."""
    drawn = problems(shift, count=count, seed=0)
    questions, golds = [one.question for one in drawn], [one.answer for one in drawn]
    model, reward = loaded["model"], loaded["reward"]
    greedy = latent_ext.solve(model, questions, n=1, sampler="none")
    pools = latent_ext.solve(
        model, questions, n=N, sampler=SHIPPED_SAMPLER, reward=reward, decode="all", seed=seed
    )
    rows = []
    for gold, alone, pool in zip(golds, greedy, pools, strict=True):
        flags = correct_flags(pool, gold)
        best = best_of_n(pool.answers, pool.scores).chosen
        vote = majority_vote(pool.answers).chosen
        values = (
            correct_flags(alone, gold)[0],
            sum(flags) / N,
            any(flags),
            best is not None and flags[best],
            vote is not None and flags[vote],
        )
        rows.append({name: float(value) for name, value in zip(METHODS, values, strict=True)})
    return rows


def cell(value: Estimate) -> str:
    low, high = value.interval
    return f"{100 * value.mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.store.mkdir(parents=True, exist_ok=True)
    loaded = {"model": latent_ext.load(), "reward": latent_ext.load_reward()}
    stem = f"{arguments.problems}-{loaded['model'].weights_hash}"
    print("| shift | " + " | ".join(METHODS) + " |")
    print("|---" * (1 + len(METHODS)) + "|")
    for shift in SHIFTS:
        seeds = []
        for seed in range(arguments.seeds):
            kept = arguments.store / f"{shift}-{seed}-{stem}.json"
            if not kept.exists():
                kept.write_text(
                    json.dumps(measure(shift, seed, arguments.problems, loaded)), encoding="utf-8"
                )
            seeds.append(json.loads(kept.read_text(encoding="utf-8")))
        cells = [cell(estimate([[row[name] for row in rows] for rows in seeds])) for name in METHODS]
        print(f"| {shift} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
