"""Rewards on identical pools of the shipped model: within-question AUC, best-of-N and weighted vote against majority.

    python bench/rewards_table.py --sampler dropout:0.2 --rewards shipped deviation answer_logprob

One pool of trajectories per split and seed, which every reward scores. Differences are paired; intervals are 95 %
bootstrap intervals over problems of the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

import numpy as np
import torch

import latent_ext
from latent_ext.evaluation.metrics import correct_flags, within_question_auc
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.rewards import as_reward
from latent_ext.search import Result, best_of_n, majority_vote, weighted_vote

RESAMPLES = 10_000
ANSWER_TOKENS = 24


def measured(pool: list[Result], golds: list[str]) -> dict[str, list[float]]:
    """Per problem: AUC (NaN where all trajectories agree), best-of-N and weighted vote minus majority."""
    found: dict[str, list[float]] = {"auc": [], "best_of_n": [], "weighted_vote": []}
    for result, gold in zip(pool, golds, strict=True):
        flags = correct_flags(result, gold)
        area = within_question_auc(result.scores, flags)
        found["auc"].append(float("nan") if area is None else area)
        majority = right(majority_vote(result.answers).chosen, flags)
        for name, rule in (("best_of_n", best_of_n), ("weighted_vote", weighted_vote)):
            found[name].append(right(rule(result.answers, result.scores).chosen, flags) - majority)
    return found


def right(chosen: int | None, flags: list[bool]) -> float:
    return float(chosen is not None and flags[chosen])


def interval(values: np.ndarray) -> list[float]:
    """Mean and 95 % bootstrap interval over problems of values [seeds, problems]; NaN is left out."""
    defined = ~np.isnan(values).all(axis=0)
    by_problem = np.nanmean(values[:, defined], axis=0)
    draws = np.random.default_rng(0).integers(len(by_problem), size=(RESAMPLES, len(by_problem)))
    low, high = np.quantile(by_problem[draws].mean(axis=1), (0.025, 0.975))
    return [round(float(value), 4) for value in (by_problem.mean(), low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sampler", default="noise:0.6:relative")
    parser.add_argument("--rewards", nargs="+", default=["shipped", "deviation", "answer_logprob"])
    parser.add_argument("--splits", nargs="+", default=["test_5", "test_6"])
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=500, help="problems per split")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = latent_ext.load()
    for split in asked.splits:
        problems = shipped_problems(split, asked.limit)
        texts, golds = [p.question for p in problems], [str(p.answer) for p in problems]
        how: dict[str, Any] = {"select": "majority", "max_answer_tokens": ANSWER_TOKENS}
        greedy = latent_ext.solve(model, texts, n=1, sampler="none", **how)
        pools = [
            latent_ext.solve(
                model, texts, n=asked.n, sampler=asked.sampler, seed=seed, return_thoughts=True, **how
            )
            for seed in range(asked.seeds)
        ]
        for name in asked.rewards:
            reward = as_reward(name)
            for concern in reward.concerns(pools[0][0].settings, model.weights_hash):
                warnings.warn(concern, UserWarning, stacklevel=1)
            scored = [latent_ext.rescore(model, pool, reward, noise_free=greedy) for pool in pools]
            found = [measured(pool, golds) for pool in scored]
            figures = {key: interval(np.array([one[key] for one in found])) for key in found[0]}
            row = {"split": split, "sampler": asked.sampler, "reward": reward.name, "n": asked.n}
            row |= {"seeds": asked.seeds, "problems": len(problems), "auc": figures["auc"]}
            row |= {f"{key}_minus_majority": figures[key] for key in ("best_of_n", "weighted_vote")}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
