"""Paired differences: right intervals where they are known, and no gain where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from latent_ext.evaluation.metrics import pass_at_k
from latent_ext.evaluation.shares import BEST, COVERAGE, MAJORITY, WEIGHTED, Pool
from latent_ext.evaluation.statistics import detectable_difference, paired_differences
from python_tests.evaluation.runs import run, small_recipe


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(1 << 62, (), generator=generator)))


def lines_of(correct: np.ndarray, scores: np.ndarray | None) -> Pool:
    """A pool of one seed: right answers are "1", wrong ones differ."""
    lines = []
    for question, flags in enumerate(correct):
        answers = ["1" if flag else str(-place - 1) for place, flag in enumerate(flags)]
        own = None if scores is None else scores[question].tolist()
        lines.append({"answers": answers, "correct": flags.tolist(), "scores": own, "chosen": 0})
    return Pool([lines])


def test_the_interval_is_that_of_scipy(generator: torch.Generator) -> None:
    values = numpy_generator(generator).choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=200)
    (found,) = paired_differences(values[:, None], 1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", random_state=np.random.default_rng(0)
    ).confidence_interval
    # Two bootstraps of this size differ by a few percent of the standard error.
    slack = 0.15 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert abs(found.low - theirs.low) < slack
    assert abs(found.high - theirs.high) < slack


def test_the_same_numbers_give_the_same_interval_beside_whatever_else(generator: torch.Generator) -> None:
    table = numpy_generator(generator).normal(size=(50, 3))
    alone = [paired_differences(table[:, column : column + 1], 2)[0] for column in range(3)]
    for one, other in zip(alone, paired_differences(table, 2), strict=True):
        assert (one.low, one.high) == pytest.approx((other.low, other.high))
        assert one.detectable == other.detectable


def test_intervals_hold_the_truth_about_as_often_as_they_say(generator: torch.Generator) -> None:
    rng, runs = numpy_generator(generator), 400
    drawn = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.6, 0.25], size=(120, runs))
    held = sum(one.low <= 0.10 <= one.high for one in paired_differences(drawn, 1))
    assert stats.binomtest(held, runs, 0.95).pvalue > 1e-6


def test_a_real_gain_and_a_real_loss_are_named(generator: torch.Generator) -> None:
    gains = numpy_generator(generator).choice([0.0, 1.0], p=[0.5, 0.5], size=300)
    readings = [one.reading for one in paired_differences(np.stack([gains, -gains], axis=1), 1)]
    assert readings == ["gain", "loss"]


def test_what_never_differs_is_no_difference_shown_within_three_over_n() -> None:
    (found,) = paired_differences(np.zeros((100, 1)), 3)
    assert (found.mean, found.reading) == (0.0, "no difference shown")
    assert found.high == -found.low == pytest.approx(0.03, abs=1e-3)
    assert found.detectable > 0


def test_one_question_shows_nothing() -> None:
    (found,) = paired_differences(np.array([[1.0]]), 1)
    assert found.detectable == 1.0
    assert found.reading == "no difference shown"


def test_the_detectable_difference_is_found_in_four_of_five_runs(generator: torch.Generator) -> None:
    rng, questions, runs = numpy_generator(generator), 150, 400
    effect = detectable_difference(1.0 / np.sqrt(questions))
    found = paired_differences(rng.normal(effect, 1.0, size=(questions, runs)), 1)
    shown = sum(one.reading == "gain" for one in found)
    assert stats.binomtest(shown, runs, 0.80).pvalue > 1e-6


@pytest.mark.parametrize("values", [np.zeros((0, 1)), np.zeros(3), np.array([[np.nan]])])
def test_what_is_no_table_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="differences: got shape"):
        paired_differences(values, 1)


def test_coverage_is_the_mean_over_all_subsets_and_rules_over_disjoint_groups(
    generator: torch.Generator,
) -> None:
    correct = numpy_generator(generator).random((20, 8)) < 0.3
    pool = lines_of(correct, None)
    for k in (1, 3, 8):
        expected = [[pass_at_k(8, int(row.sum()), k) for row in correct]]
        assert pool.share(COVERAGE, k).tolist() == expected
    perfect = lines_of(correct, correct.astype(float))
    assert perfect.share(BEST, 8).tolist() == pool.share(COVERAGE, 8).tolist()
    groups = correct.reshape(20, 2, 4).any(axis=2).mean(axis=1)
    assert perfect.share(BEST, 4)[0] == pytest.approx(groups)


def test_a_sampler_without_effect_and_a_random_reward_are_no_gain(generator: torch.Generator) -> None:
    """The planted defect: 300 null runs, in which a gain may be claimed as often as the level allows, 2.5 %."""
    rng, questions, runs = numpy_generator(generator), 100, 300
    differences = []
    for _ in range(runs):
        # Every trajectory is right with the question's own chance, as its control is; scores know nothing.
        chance = rng.beta(2, 2, size=(questions, 1))
        pool = lines_of(rng.random((questions, 8)) < chance, rng.normal(size=(questions, 8)))
        control = (rng.random(questions) < chance[:, 0]).astype(float)
        differences.append(pool.share(BEST, 8)[0] - control)
    readings = [one.reading for one in paired_differences(np.stack(differences, axis=1), 1)]
    assert stats.binomtest(readings.count("gain"), runs, 0.025).pvalue > 1e-6
    assert readings.count("no difference shown") > 0.85 * runs


def test_evaluate_reports_no_gain_for_noise_of_zero_and_scores_that_know_nothing(tmp_path: Path) -> None:
    arms = [
        {"name": "greedy", "sampler": "none", "n": 1, "reward": "none"},
        {"name": "nothing", "sampler": "noise:0", "n": 4},
        {"name": "beam", "sampler": "noise:0", "select": "beam", "beams": 2, "candidates": 2},
    ]
    evaluated = run(tmp_path / "run", small_recipe(arms=arms))
    table = evaluated.summary["tables"][0]
    names = [column["name"] for column in table["columns"]]
    compared = [
        row[names.index(name)] for row in table["rows"] for name in ("against majority", "against greedy")
    ]
    found = [cell for cell in compared if cell is not None]
    assert {row[1] for row in table["rows"]} >= {"greedy", MAJORITY, WEIGHTED, BEST, "beam 2 x 2"}
    assert len(found) > 10
    assert {cell["reading"] for cell in found} == {"no difference shown"}
    assert all(cell["low"] <= 0.0 <= cell["high"] for cell in found)
    assert "Minimum detectable difference (80 % power, 7 problems, 2 seeds)" in table["note"]
