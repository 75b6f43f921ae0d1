"""Accuracy of every selection rule at several N on the shipped model, with paired differences against majority voting.

Rules that look at a finished pool (majority, best-of-N, votes) take every disjoint group of N among 64 trajectories. The
adaptive budget is read off the same pool: its trajectories are the first ones of the fixed run
(python_tests/search/test_adaptive.py). Beam searches are runs of their own. A question's value is its mean over groups
and seeds; intervals are 95 % percentiles of a bootstrap over questions, and a difference is taken question by question.

Records, one per split, sampler and seed, go to a JSON file as they are finished, the table to a Markdown file beside it;
--resume goes on where an interruption left off.

    python bench/search_table.py --splits test_5,test_6 --seeds 3
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from machine import machine_facts
from quality import paired_bootstrap
from results import Results

import latent_ext
from latent_ext.cli.progress import reporting
from latent_ext.evaluation.metrics import correct_flags, pass_at_k, selected_accuracy
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.search import SELECTORS, Result
from latent_ext.search.adaptive import CONFIDENCE, rounds
from latent_ext.search.settle import settled_by_vote

POOL = 64
SIZES = (1, 4, 16, 64)
# Beams x candidates of as many rows as N.
BEAMS = {1: (1, 1), 4: (2, 2), 16: (4, 4), 64: (8, 8)}
# Variants of the search with 16 rows.
VARIANTS: dict[str, dict[str, int]] = {
    "beam, 4 subtrees": {"subtrees": 4},
    "beam, lookahead 1": {"lookahead": 1},
}

# Scores the same pool, besides the LatentRM on thoughts that scores while it is sampled.
READING = "answer_rm"

Values = dict[str, dict[str, list[float]]]  # rule -> N -> by question


def main(
    splits: Annotated[str, typer.Option(help="Shipped problems, comma-separated.")] = "test_5,test_6",
    samplers: Annotated[str, typer.Option(help="Comma-separated.")] = "noise:0.6:relative,dropout:0.2",
    limit: Annotated[int, typer.Option(help="Problems of each split.")] = 500,
    seeds: Annotated[int, typer.Option(help="Run seeds 0, 1, ...")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    results: Annotated[Path, typer.Option(help="Where the records go.")] = (
        # Megabytes of values by question; the table alone belongs beside the other results.
        Path("build") / "search_table.json"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Skip what is recorded already.")] = False,
) -> None:
    torch.set_num_threads(threads)
    found = Results(results, resume=resume)
    for split in splits.split(","):
        for seed in range(seeds):
            for sampler in samplers.split(","):
                settings = {"split": split, "sampler": sampler, "limit": limit, "seed": seed}
                if not found.holds(settings):
                    measured = measure(split, sampler, limit, seed)
                    found.add({"settings": settings, **measured, "machine": machine_facts()})
                    results.with_suffix(".md").write_text(tables(found.records) + "\n", encoding="utf-8")
    print(tables(found.records))


def measure(split: str, sampler: str, limit: int, seed: int) -> dict[str, Any]:
    """One record: what every rule is worth on every question, and the trajectories that the adaptive budget drew."""
    problems = shipped_problems(split, limit)
    questions = [problem.question for problem in problems]
    golds = [str(problem.answer) for problem in problems]
    model, reward = latent_ext.load(), latent_ext.load_reward()
    values: Values = {}

    def solved(label: str, **how: Any) -> list[Result]:
        with reporting(f"{split} {sampler}, seed {seed}: {label}") as report:
            how = {"reward": reward, "sampler": sampler, "seed": seed, "progress": report} | how
            return latent_ext.solve(model, questions, **how)

    def keep(rule: str, n: int, of_questions: list[float]) -> None:
        values.setdefault(rule, {})[str(n)] = [round(value, 6) for value in of_questions]

    sampled = solved("pool", n=POOL, decode="all", select="weighted_vote", return_thoughts=True)
    with reporting(f"{split} {sampler}, seed {seed}: {READING}", unit="questions") as report:
        reread = latent_ext.rescore(model, sampled, READING, progress=report)
    pool, read = (list(zip(results, golds, strict=True)) for results in (sampled, reread))
    drawn: dict[str, dict[str, float]] = {"adaptive": {}, f"adaptive, {READING}": {}}
    for n in SIZES:
        keep("coverage", n, [pass_at_k(POOL, sum(correct_flags(r, g)), n) for r, g in pool])
        for name, rule in SELECTORS.items():
            keep(name, n, [selected_accuracy(rule, r, g, n) for r, g in pool])
        for name in ("best_of_n", "weighted_vote"):
            keep(f"{name}, {READING}", n, [selected_accuracy(SELECTORS[name], r, g, n) for r, g in read])
        beams, candidates = BEAMS[n]
        keep("beam", n, right(solved(f"beam {n}", select="beam", beams=beams, candidates=candidates), golds))
        for (name, taken), of in zip(drawn.items(), (pool, read), strict=True):
            lengths = [drawn_by_adaptive(result, n) for result, _ in of]
            keep(name, n, [first_voted(r, g, k) for (r, g), k in zip(of, lengths, strict=True)])
            taken[str(n)] = float(np.mean(lengths))
    beams, candidates = BEAMS[16]
    for name, how in VARIANTS.items():
        keep(name, 16, right(solved(name, select="beam", beams=beams, candidates=candidates, **how), golds))
    return {"values": values, "drawn": drawn}


def drawn_by_adaptive(result: Result, n: int) -> int:
    """Trajectories after which ``select="adaptive"`` at its default confidence stops."""
    ends = [last for _, last in rounds(n)]
    settled = (k for k in ends if settled_by_vote(result.answers[:k], result.scores[:k], CONFIDENCE))
    return next(settled, n)


def first_voted(result: Result, gold: str, k: int) -> float:
    """Whether the weighted vote of the first k trajectories is right."""
    chosen = SELECTORS["weighted_vote"](result.answers[:k], result.scores[:k]).chosen
    return float(chosen is not None and correct_flags(result, gold)[chosen])


def right(results: Sequence[Result], golds: Sequence[str]) -> list[float]:
    """Whether the chosen answer is the gold, per question."""
    return [
        float(result.chosen is not None and correct_flags(result, gold)[result.chosen])
        for result, gold in zip(results, golds, strict=True)
    ]


def tables(records: Sequence[dict[str, Any]]) -> str:
    """Markdown, one table per split and sampler."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for record in records:
        settings = record["settings"]
        groups.setdefault((settings["split"], settings["sampler"], settings["limit"]), []).append(record)
    return "\n\n".join(table(split, sampler, group) for (split, sampler, _), group in groups.items())


def table(split: str, sampler: str, records: Sequence[dict[str, Any]]) -> str:
    """Accuracy in percent with, in brackets, the difference to majority voting; bold where its interval excludes 0."""

    def mean(rule: str, n: int) -> np.ndarray:
        return np.mean([record["values"][rule][str(n)] for record in records], axis=0)

    def shown(rule: str, n: int) -> str:
        if str(n) not in records[0]["values"][rule]:
            return ""
        text = f"{100 * mean(rule, n).mean():.1f}"
        if rule in ("majority", "coverage") or n == 1:
            return text
        gain, (low, high) = against(("majority", n), (rule, n))
        difference = points(gain, low, high)
        return f"{text} (**{difference}**)" if low > 0 or high < 0 else f"{text} ({difference})"

    def against(before: tuple[str, int], after: tuple[str, int]) -> tuple[float, tuple[float, float]]:
        return paired_bootstrap(mean(*before), mean(*after), seed=0)

    count = len(mean("majority", 1))
    lines = [f"**{split}, {sampler}**: {count} problems, {len(records)} seed(s)", ""]
    lines += ["| rule | " + " | ".join(f"N = {n}" for n in SIZES) + " |", "|---" * (len(SIZES) + 1) + "|"]
    for rule in records[0]["values"]:
        lines.append(f"| {rule} | " + " | ".join(shown(rule, n) for n in SIZES) + " |")
    lines.append("")
    for name in records[0]["drawn"]:
        vote = name.replace("adaptive", "weighted_vote")
        drawn = float(np.mean([record["drawn"][name][str(POOL)] for record in records]))
        lost, lost_in = against((vote, POOL), (name, POOL))
        gained, gained_in = against((vote, 16), (vote, POOL))
        lines += [
            f"{name}, at most {POOL}: {drawn:.1f} trajectories on average ({100 * drawn / POOL:.0f} %).",
            f"{name} minus {vote} of {POOL}: {points(lost, *lost_in)} points.",
            f"{vote} of {POOL} minus that of 16: {points(gained, *gained_in)} points.",
        ]
    return "\n".join(lines)


def points(mean: float, low: float, high: float) -> str:
    """A difference and its interval in percentage points."""
    return f"{100 * mean:+.1f}, {100 * low:+.1f} to {100 * high:+.1f}"


if __name__ == "__main__":
    typer.run(main)
