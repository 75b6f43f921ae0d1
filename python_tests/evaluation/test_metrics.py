"""Metrics against direct computations."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from latent_ext.evaluation.metrics import (
    correct_flags,
    estimate,
    pass_at_k,
    selected_accuracy,
    within_question_auc,
)
from latent_ext.search import Result, Trajectory, best_of_n, majority_vote


def pool(answers: list[str | None], scores: list[float | None] | None = None) -> Result:
    scores = [None] * len(answers) if scores is None else scores
    listed = [
        Trajectory(index=n, key=n, answer=answer, score=score)
        for n, (answer, score) in enumerate(zip(answers, scores, strict=True))
    ]
    return Result("q", listed, "majority", None, {})


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample(n: int) -> None:
    for correct in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations(range(n), k))
            share = sum(min(subset) < correct for subset in subsets) / len(subsets)
            assert pass_at_k(n, correct, k) == pytest.approx(share)


def test_pass_at_k_of_large_pools_neither_overflows_nor_leaves_the_unit_interval() -> None:
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)
    assert pass_at_k(100_000, 0, 100_000) == 0.0
    assert pass_at_k(100_000, 1, 100_000) == 1.0


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="allowed"):
        pass_at_k(n, correct, k)


@example([[0.0, 2.124815284599406e-160]])
@given(
    st.integers(1, 4).flatmap(
        lambda problems: st.lists(
            st.lists(st.floats(0, 1), min_size=problems, max_size=problems), min_size=1, max_size=4
        )
    )
)
def test_estimate_is_the_mean_over_problems_of_their_means_over_seeds(values: list[list[float]]) -> None:
    found = estimate(values)
    by_problem = [sum(column) / len(column) for column in zip(*values, strict=True)]
    mean = sum(by_problem) / len(by_problem)
    assert found.mean == pytest.approx(mean)
    if len(by_problem) == 1:
        assert math.isnan(found.standard_error)
    else:
        variance = sum((value - mean) ** 2 for value in by_problem) / (len(by_problem) - 1)
        assert found.standard_error == pytest.approx(math.sqrt(variance / len(by_problem)))
    if len(values) == 1:
        assert found.seed_spread is None
    else:
        by_seed = [sum(row) / len(row) for row in values]
        assert found.seed_spread == pytest.approx(np.std(by_seed, ddof=1))
    low, high = found.interval
    assert 0.0 <= low <= high <= 1.0


@pytest.mark.parametrize("values", [[], [[]]])
def test_estimate_of_nothing_is_refused(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="values: got shape"):
        estimate(values)


def test_a_gold_of_zero_is_correct_only_for_answers_of_zero() -> None:
    assert correct_flags(pool(["0", None, "18", "0"]), "0") == [True, False, False, True]
    assert correct_flags(pool(["0"]), "-0.00") == [True]


def test_golds_are_compared_as_numbers() -> None:
    assert correct_flags(pool(["18", "1080"]), "18.0") == [True, False]
    assert correct_flags(pool(["18", "1080"]), "$1,080") == [False, True]


@pytest.mark.parametrize("gold", ["none", "", "None", "nan"])
def test_a_gold_that_is_no_number_is_refused(gold: str) -> None:
    with pytest.raises(ValueError, match="gold: got"):
        correct_flags(pool(["0"]), gold)


def test_selected_accuracy_averages_over_disjoint_groups() -> None:
    result = pool(["1", "2", "2", "1", "1", "1", "2"], [3.0, 9.0, 1.0, 2.0, 5.0, 4.0, 9.0])
    # Groups of 2: {1, 2} picks 2, {2, 1} picks 1, {1, 1} picks 1; the seventh trajectory fills no group.
    assert selected_accuracy(best_of_n, result, "1", 2) == pytest.approx(2 / 3)
    # Groups of 3: {1, 2, 2} votes 2, {1, 1, 1} votes 1.
    assert selected_accuracy(majority_vote, result, "1", 3) == 0.5
    assert selected_accuracy(majority_vote, result, "1", 7) == 1.0


def test_groups_of_one_give_the_share_of_correct_trajectories() -> None:
    result = pool(["1", "2", None, "1"], [0.0, 1.0, 2.0, 3.0])
    assert selected_accuracy(best_of_n, result, "1", 1) == 0.5


def test_a_group_in_which_nothing_is_chosen_is_wrong() -> None:
    assert selected_accuracy(majority_vote, pool([None, None, "1", "1"]), "1", 2) == 0.5


@pytest.mark.parametrize("k", [0, -1, 5])
def test_selected_accuracy_refuses_a_group_that_the_pool_cannot_fill(k: int) -> None:
    with pytest.raises(ValueError, match="k: got"):
        selected_accuracy(majority_vote, pool(["1"] * 4), "1", k)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_auc_is_the_normalised_mann_whitney_statistic(drawn: list[tuple[int, bool]]) -> None:
    scores = [float(score) for score, _ in drawn]
    flags = [flag for _, flag in drawn]
    right = [score for score, flag in zip(scores, flags, strict=True) if flag]
    wrong = [score for score, flag in zip(scores, flags, strict=True) if not flag]
    found = within_question_auc(scores, flags)
    if not right or not wrong:
        assert found is None
    else:
        statistic = mannwhitneyu(right, wrong, method="asymptotic").statistic
        assert found == pytest.approx(statistic / (len(right) * len(wrong)))


def test_auc_leaves_out_trajectories_without_a_score() -> None:
    assert within_question_auc([2.0, None, 1.0], [True, True, False]) == 1.0
    assert within_question_auc([None, None, 1.0], [True, True, False]) is None
