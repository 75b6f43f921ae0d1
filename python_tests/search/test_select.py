"""Selection rules: who may vote, who may win, and what changes nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_ext.search.select import SELECTORS, best_of_n, majority_vote, weighted_vote

NAN, INF = math.nan, math.inf
answers_of = st.sampled_from([None, "4", "5", "18"])
scores_of = st.one_of(st.none(), st.sampled_from([NAN, INF, -INF]), st.floats(-1e4, 1e4))
ballots = st.lists(st.tuples(answers_of, scores_of), max_size=12)


def choose(rule: str, ballot: list[tuple[str | None, float | None]]):  # type: ignore[no-untyped-def]
    return SELECTORS[rule]([answer for answer, _ in ballot], [score for _, score in ballot])


def usable(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def test_best_of_n_gives_a_tie_to_the_smaller_index() -> None:
    assert best_of_n(["4", "5", "6"], [1.0, 2.0, 2.0]).chosen == 1


def test_majority_gives_a_tie_to_the_answer_that_was_seen_first() -> None:
    assert majority_vote(["5", "4", "4", "5"]).chosen == 0


def test_majority_with_scores_names_the_best_scored_voter() -> None:
    assert majority_vote(["4", "5", "4", "4"], [0.0, 9.0, 2.0, 2.0]).chosen == 2
    assert majority_vote(["4", "5", "4", "4"], [NAN, 9.0, None, -1.0]).chosen == 3


@pytest.mark.parametrize("rule", SELECTORS)
def test_nothing_is_chosen_from_nothing(rule: str) -> None:
    assert choose(rule, []).chosen is None
    assert choose(rule, []).votes == {}


@pytest.mark.parametrize("rule", ["majority", "weighted_vote"])
def test_a_vote_without_parsable_answers_chooses_nothing(rule: str) -> None:
    assert choose(rule, [(None, 1.0), (None, 2.0)]).chosen is None


@pytest.mark.parametrize("rule", ["best_of_n", "weighted_vote"])
def test_without_a_finite_score_nothing_is_chosen(rule: str) -> None:
    assert choose(rule, [("4", NAN), ("5", INF), ("6", -INF), ("7", None)]).chosen is None


def test_a_much_better_score_without_an_answer_does_not_silence_the_vote() -> None:
    assert weighted_vote(["4", None], [0.0, 1000.0]) == weighted_vote(["4"], [0.0])


def test_equal_scores_make_the_weighted_vote_a_majority_vote() -> None:
    assert weighted_vote(["4", "5", "5"], [1.0, 1.0, 1.0]).chosen == majority_vote(["4", "5", "5"]).chosen


@given(ballots)
def test_weights_of_voters_sum_to_one_and_are_sorted(ballot) -> None:  # type: ignore[no-untyped-def]
    votes = list(choose("weighted_vote", ballot).votes.values())
    assert votes == sorted(votes, reverse=True)
    assert not votes or math.isclose(math.fsum(votes), 1.0)


@pytest.mark.parametrize("rule", SELECTORS)
@given(ballot=ballots)
def test_the_chosen_trajectory_may_be_chosen(rule: str, ballot) -> None:  # type: ignore[no-untyped-def]
    selection = choose(rule, ballot)
    assert None not in selection.votes
    if selection.chosen is not None:
        answer, score = ballot[selection.chosen]
        assert rule == "majority" or usable(score)
        assert rule == "best_of_n" or answer == next(iter(selection.votes))


@pytest.mark.parametrize("rule", SELECTORS)
@given(data=st.data(), ballot=ballots)
def test_the_order_of_trajectories_decides_ties_alone(rule: str, data, ballot) -> None:  # type: ignore[no-untyped-def]
    shuffled = data.draw(st.permutations(ballot))
    selection, other = choose(rule, ballot), choose(rule, shuffled)
    assert selection.votes == other.votes
    assert (selection.chosen is None) == (other.chosen is None)
    if selection.chosen is None or other.chosen is None:
        return
    won, lost = ballot[selection.chosen], shuffled[other.chosen]
    if rule == "best_of_n":
        assert won[1] == lost[1]
    else:
        assert selection.votes[won[0]] == selection.votes[lost[0]]


@pytest.mark.parametrize("rule", ["majority", "weighted_vote"])
@given(ballot=ballots, score=scores_of)
def test_an_answer_that_cannot_be_parsed_changes_no_vote(rule: str, ballot, score) -> None:  # type: ignore[no-untyped-def]
    assert choose(rule, [*ballot, (None, score)]) == choose(rule, ballot)


@pytest.mark.parametrize("rule", ["best_of_n", "weighted_vote"])
@given(ballot=ballots, bad=st.sampled_from([NAN, INF, -INF, None]))
def test_a_score_that_is_not_finite_changes_no_choice(rule: str, ballot, bad) -> None:  # type: ignore[no-untyped-def]
    assert choose(rule, [*ballot, ("4", bad)]).chosen == choose(rule, ballot).chosen


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        weighted_vote(["4"], [1.0, 2.0])
