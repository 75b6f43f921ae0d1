"""The demonstration: every way of spending N trajectories on the same held-out problems, with controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from latent_ext.evaluation.metrics import (
    Estimate,
    SelectionRule,
    correct_flags,
    estimate,
    pass_at_k,
    selected_accuracy,
    within_question_auc,
)
from latent_ext.evaluation.problems import NamedProblem
from latent_ext.models import LatentModel
from latent_ext.models.answers import canonical_number
from latent_ext.rewards import LatentRM
from latent_ext.samplers import as_sampler
from latent_ext.search import Result, best_of_n, majority_vote, rescore, solve, weighted_vote

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One line of the table: a method, how many trajectories it spends, what it reaches."""

    method: str
    n: int
    accuracy: Estimate
    control: bool = False


@dataclass(frozen=True)
class Demonstration:
    """The table and what stands beside it: AUC within a question of the two LatentRMs."""

    rows: list[Row]
    auc: Estimate | None
    reading_auc: Estimate | None
    problems: int
    seeds: int


def demonstrate(
    model: LatentModel,
    reward: LatentRM,
    reading: LatentRM,
    problems: Sequence[NamedProblem],
    *,
    n: int,
    sampler: str,
    seeds: Sequence[int],
    engine: str = "auto",
    report: Report | None = None,
) -> Demonstration:
    """Greedy, sampled and selected accuracy on `problems`.

    Args:
        model, reward: generator and LatentRM, which scores thoughts while they are formed.
        reading: a LatentRM that reads answers, too, and scores the same trajectories.
        problems: each with a gold answer.
        n: trajectories per problem.
        sampler: text form of the latent sampler.
        seeds: one pool of n trajectories per problem and seed.
        engine: see `solve`.
        report: called with (phase, trajectories done, trajectories in all).

    Raises:
        ValueError: naming the argument, before anything is computed.
    """
    if n < 1:
        raise ValueError(f"n: got {n}; a whole number of trajectories >= 1 is needed")
    if not problems or not seeds:
        raise ValueError(
            f"problems, seeds: got {len(problems)} and {len(seeds)}; at least 1 of each is needed"
        )
    for problem in problems:
        if canonical_number(str(problem.answer)) is None:
            raise ValueError(f"problems: {problem.id} has answer {problem.answer!r}; a number is needed")
    as_sampler(sampler)
    questions = [problem.question for problem in problems]
    golds = [str(problem.answer) for problem in problems]

    def run(phase: str, **settings: Any) -> list[Result]:
        progress = (lambda done, total: report(phase, done, total)) if report is not None else None
        return solve(model, questions, engine=engine, progress=progress, decode="all", **settings)

    greedy = run("noise-free greedy answer", n=1, sampler="none")
    pools, read, controls = [], [], []
    for place, seed in enumerate(seeds, start=1):
        label = f" (seed {place} of {len(seeds)})" if len(seeds) > 1 else ""
        pool = run(
            f"latent sampling{label}", n=n, sampler=sampler, reward=reward, seed=seed, return_thoughts=True
        )
        phase = f"reading answers{label}"
        counted = partial(report, phase) if report is not None else None
        read.append(rescore(model, pool, reading, noise_free=greedy, engine=engine, progress=counted))
        # Of all pools together they would be in the way of the memory.
        for one in (*pool, *read[-1]):
            for trajectory in one.trajectories:
                trajectory.thoughts = None
        pools.append(pool)
        controls.append(run(f"token temperature 1{label}", n=n, sampler="none", temperature=1.0, seed=seed))

    def per_pool(of: list[list[Result]], value: Callable[[Result, str], float]) -> Estimate:
        return estimate([[value(r, gold) for r, gold in zip(pool, golds, strict=True)] for pool in of])

    def coverage_at(k: int) -> Callable[[Result, str], float]:
        return lambda result, gold: pass_at_k(n, sum(correct_flags(result, gold)), k)

    def chosen_by(rule: SelectionRule, k: int) -> Callable[[Result, str], float]:
        return lambda result, gold: selected_accuracy(rule, result, gold, k)

    rows = [
        Row(
            "greedy, noise-free",
            1,
            per_pool([greedy], lambda r, gold: float(correct_flags(r, gold)[0])),
            control=True,
        ),
        Row("pass@1 (one sampled trajectory)", 1, per_pool(pools, coverage_at(1))),
        Row("coverage (a perfect selector)", n, per_pool(pools, coverage_at(n))),
        Row("majority vote", n, per_pool(pools, chosen_by(majority_vote, n))),
        Row("weighted vote, LatentRM", n, per_pool(pools, chosen_by(weighted_vote, n))),
    ]
    for method, of in (("best-of-N, LatentRM", pools), ("best-of-N, LatentRM that reads answers", read)):
        rows += [Row(method, k, per_pool(of, chosen_by(best_of_n, k))) for k in sorted({4, 16, n}) if k <= n]
    rows += [
        Row("token temperature 1: pass@1", 1, per_pool(controls, coverage_at(1)), control=True),
        Row("token temperature 1: coverage", n, per_pool(controls, coverage_at(n)), control=True),
        Row(
            "token temperature 1: majority vote",
            n,
            per_pool(controls, chosen_by(majority_vote, n)),
            control=True,
        ),
    ]
    return Demonstration(rows, _auc(pools, golds), _auc(read, golds), len(problems), len(seeds))


def _auc(pools: list[list[Result]], golds: Sequence[str]) -> Estimate | None:
    """Mean over the problems that have right and wrong trajectories, after averaging a problem over seeds."""
    by_problem: dict[int, list[float]] = {}
    for pool in pools:
        for place, (result, gold) in enumerate(zip(pool, golds, strict=True)):
            value = within_question_auc(result.scores, correct_flags(result, gold))
            if value is not None:
                by_problem.setdefault(place, []).append(value)
    if not by_problem:
        return None
    return estimate([[sum(values) / len(values) for values in by_problem.values()]])
