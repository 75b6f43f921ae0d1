"""Rewards without training, and rewards of one's own, under `solve`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from random_models import QUESTIONS, random_model, random_reward

import latent_ext
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards import AnswerReading, Deviation, LatentRM, Reward, as_reward
from latent_ext.rewards.deviation import predictions
from latent_ext.search import best_of_n, weighted_vote


def run(model, reward, **how):  # type: ignore[no-untyped-def]
    how = {"n": 5, "max_answer_tokens": 4, "sampler": "dropout:0.3", "engine": "reference"} | how
    return latent_ext.solve(model, list(QUESTIONS), reward=reward, **how)


class Whole:
    """A reward of one's own: the same scores for every question."""

    name = "whole"
    needs = frozenset({"answers"})

    def __init__(self, *scores: float | None) -> None:
        self.given = scores

    def concerns(self, sampler, generator_hash) -> list[str]:  # type: ignore[no-untyped-def]
        return []

    def score(self, model, seen):  # type: ignore[no-untyped-def]
        return self.given


def test_thoughts_without_noise_are_their_own_predictions(generator: torch.Generator) -> None:
    model = random_model(generator)
    for text, result in zip(
        QUESTIONS, run(model, None, n=1, sampler="none", return_thoughts=True), strict=True
    ):
        thoughts = result.trajectories[0].thoughts
        (predicted,) = predictions(model, model.encode(text), [thoughts])
        assert_close(predicted, thoughts, "latent_phase")


def test_predictions_of_rows_of_different_length_are_those_of_each_alone(generator: torch.Generator) -> None:
    model = random_model(generator)
    prompt = model.encode(QUESTIONS[0])
    rows = [torch.randn(count, model.blocks.hidden_size, generator=generator) for count in (5, 1, 3)]
    for together, row in zip(predictions(model, prompt, rows), rows, strict=True):
        assert_close(together, predictions(model, prompt, [row])[0], "latent_phase")


def test_deviation_under_absolute_noise_is_the_length_of_that_noise(generator: torch.Generator) -> None:
    model, sigma = random_model(generator), 0.25
    with pytest.warns(UserWarning, match="deviation under 'noise:0.25' is the length of the drawn noise"):
        results = run(model, "deviation", n=40, sampler=f"noise:{sigma}")
    scores = torch.tensor([t.step_scores for r in results for t in r.trajectories]) / sigma**2
    hidden = model.blocks.hidden_size
    # A sum of `hidden` squared normals: mean `hidden`, variance 2 * `hidden`; five standard errors of the mean.
    assert abs(float(scores.mean()) + hidden) < 5 * math.sqrt(2 * hidden / scores.numel())


def test_deviation_under_dropout_is_not_warned_of(generator: torch.Generator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run(random_model(generator), "deviation", return_thoughts=False)
    for result in results:
        assert result.settings["reward"] == "deviation"
        assert all(t.thoughts is None and max(t.step_scores) < 0.0 for t in result.trajectories)
        assert result.chosen == best_of_n(result.answers, result.scores).chosen


def test_the_answer_log_probability_chooses_the_surest_answer_and_skips_what_is_none(
    generator: torch.Generator,
) -> None:
    for result in run(random_model(generator), "answer_logprob", max_answer_tokens=8, n=12):
        assert result.scores == [None if t.answer is None else t.logprob for t in result.trajectories]
        assert result.chosen == best_of_n(result.answers, result.scores).chosen


@pytest.mark.parametrize("select", ["best_of_n", "weighted_vote"])
def test_a_file_of_answer_reading_scores_as_the_object_with_the_noise_free_answer(
    generator: torch.Generator, tmp_path: Path, select: str
) -> None:
    model, reading = random_model(generator), AnswerReading(0.7, 1.5)
    reading.save(tmp_path / "reading.json")
    greedy = run(model, None, n=1, sampler="none", max_answer_tokens=8)
    results = run(model, tmp_path / "reading.json", select=select, max_answer_tokens=8, n=12)
    for alone, result in zip(greedy, results, strict=True):
        logprobs = [trajectory.logprob for trajectory in result.trajectories]
        expected = reading.scores(result.answers, logprobs, alone.answer)
        assert result.scores == expected
        rule = {"best_of_n": best_of_n, "weighted_vote": weighted_vote}[select]
        assert result.chosen == rule(result.answers, expected).chosen
        assert result.settings["reward"] == "answer_reading(agreement=0.7, confidence=1.5)"


def test_a_latent_rm_asked_as_any_reward_scores_what_the_engine_scores(generator: torch.Generator) -> None:
    model, latent_rm = random_model(generator), random_reward(generator)
    assert isinstance(latent_rm, LatentRM)
    assert isinstance(latent_rm, Reward)

    class Asked(Whole):
        needs = frozenset({"thoughts"})

        def score(self, model, seen):  # type: ignore[no-untyped-def]
            return latent_rm.score(model, seen)

    inside, later = run(model, latent_rm), run(model, Asked())
    for one, other in zip(inside, later, strict=True):
        scores = [[t.step_scores for t in result.trajectories] for result in (other, one)]
        assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), "step_score")


def test_scores_of_the_whole_choose_and_those_that_are_not_finite_are_reported(
    generator: torch.Generator,
) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        results = run(random_model(generator), Whole(0.5, None, math.nan, 0.75, math.inf))
    assert [result.chosen for result in results] == [3, 3, 3]
    assert [t.score for t in results[0].trajectories] == [0.5, None, None, 0.75, None]
    reported = [str(one.message) for one in warned if one.category is RuntimeWarning]
    assert reported == [
        f"question {b}, trajectory {n}: the score is not finite; it is not selected"
        for b in range(len(QUESTIONS))
        for n in (2, 4)
    ]


def test_too_few_scores_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="whole gave 2 scores for 5 trajectories of question 0"):
        run(random_model(generator), Whole(0.5, 0.25))


def test_what_only_sees_finished_trajectories_cannot_guide_beams(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="reward: deviation cannot guide select='beam'"):
        run(random_model(generator), "deviation", n=None, select="beam")


def test_what_is_no_reward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="reward: got int"):
        as_reward(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^reward: got .*none\.json'; there is no such file"):
        as_reward(tmp_path / "none.json")
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(ValueError, match=r"path: .*empty\.json holds no answer reading"):
        as_reward(tmp_path / "empty.json")
    with pytest.raises(
        ValueError, match=r"^reward: got 'answer_readng' \(did you mean 'answer_reading'\?\); allowed are"
    ):
        as_reward("answer_readng")
    with pytest.raises(ValueError, match=r"^reward: 'no/such/place' is neither a directory nor a Hub id"):
        as_reward("no/such/place")
    assert isinstance(as_reward("deviation"), Deviation)


def test_the_output_of_a_training_is_refused_with_the_place_of_its_best(
    generator: torch.Generator, tmp_path: Path
) -> None:
    best = tmp_path / "run" / "best"
    latent_ext.save_reward(random_reward(generator), best)
    with pytest.raises(ValueError, match=f"what train-rm wrote; its best LatentRM is {best}$"):
        as_reward(tmp_path / "run")
    assert isinstance(as_reward(best), LatentRM)


def test_an_error_speaks_of_a_reward_without_its_weights(generator: torch.Generator) -> None:
    reward = AnswerReading(0.25, 0.125)
    assert "0.125" in reward.name
    with pytest.raises(ValueError, match=r"^reward: answer_reading cannot guide select='beam'"):
        run(random_model(generator), reward, n=None, select="beam")


@pytest.mark.parametrize("select", ["majority", "weighted_vote", "best_of_n"])
def test_a_trajectory_without_a_finite_score_neither_votes_nor_is_chosen(
    generator: torch.Generator, select: str
) -> None:
    model = random_model(generator)
    with pytest.warns(RuntimeWarning, match="not finite"):
        results = run(model, Whole(math.nan, 1.0, math.nan, math.nan, math.nan), select=select)
    for result in results:
        assert result.chosen in (None, 1)
        assert sum(result.votes.values()) <= 1.0


def test_a_mixture_of_which_one_member_only_adds_noise_is_warned_of() -> None:
    settings = latent_ext.Mixture.parse("mix(dropout:0.2|noise:0.4)").to_dict()
    assert Deviation().concerns(settings, "")
    assert not Deviation().concerns(latent_ext.Mixture.parse("mix(dropout:0.2|svp:0.4)").to_dict(), "")
