"""The table of selection rules: what it reads off a pool is what the searches do, and its figures are its records'."""

from __future__ import annotations

import pytest
import search_table

import latent_ext
from latent_ext.evaluation.problems import shipped_problems


def test_the_adaptive_rows_are_those_of_adaptive_runs() -> None:
    problems = shipped_problems("test_5", 8)
    questions, golds = (
        [problem.question for problem in problems],
        [str(problem.answer) for problem in problems],
    )
    model, reward = latent_ext.load(), latent_ext.load_reward()
    how = {"reward": reward, "sampler": "noise:0.6:relative", "n": 16}
    pool = latent_ext.solve(model, questions, select="weighted_vote", **how)
    adaptive = latent_ext.solve(model, questions, select="adaptive", **how)
    lengths = [search_table.drawn_by_adaptive(result, 16) for result in pool]
    assert lengths == [len(result.trajectories) for result in adaptive]
    read_off = [search_table.first_voted(r, g, k) for r, g, k in zip(pool, golds, lengths, strict=True)]
    assert read_off == search_table.right(adaptive, golds)


def record(seed: int, majority: list[float], adaptive: list[float]) -> dict:
    sizes = [str(n) for n in search_table.SIZES]
    values = {"majority": majority, "weighted_vote": majority, "adaptive": adaptive}
    return {
        "settings": {"split": "test_5", "sampler": "none", "limit": 4, "seed": seed},
        "values": {rule: dict.fromkeys(sizes, column) for rule, column in values.items()},
        "drawn": {"adaptive": dict.fromkeys(sizes, 16.0)},
    }


def test_the_table_averages_over_seeds_and_marks_clear_differences() -> None:
    first = record(0, [0.0] * 4, [1.0] * 4)
    second = record(1, [1.0, 0.0, 0.0, 0.0], [1.0] * 4)
    text = search_table.tables([first, second])
    assert "4 problems, 2 seed(s)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| adaptive |")]
    assert row.startswith("| adaptive | 100.0 | 100.0 (**+87.5, ")
    assert "adaptive, at most 64: 16.0 trajectories on average (25 %)." in text


def test_a_rule_that_changes_nothing_is_no_gain() -> None:
    same = [1.0, 0.0, 0.0, 1.0]
    text = search_table.tables([record(0, same, same)])
    assert "| adaptive | 50.0 | 50.0 (+0.0, +0.0 to +0.0)" in text
    assert "**+" not in text


@pytest.mark.parametrize("n", search_table.SIZES)
def test_a_beam_forms_as_many_thoughts_as_the_runs_that_it_is_compared_with(n: int) -> None:
    beams, candidates = search_table.BEAMS[n]
    assert beams * candidates == n
