"""Other scores for a pool that is there: those that the run itself would have given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import latent_ext
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.models import LatentModel
from latent_ext.ops.tolerances import assert_close
from latent_ext.search import Result

TEXTS = [problem.question for problem in shipped_problems("test_5", 4)]
HOW = {"n": 6, "sampler": "noise:0.6:relative", "max_answer_tokens": 24, "decode": "all"}


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return latent_ext.load()


@pytest.fixture(scope="module")
def pool(model: LatentModel) -> list[Result]:
    return latent_ext.solve(model, TEXTS, return_thoughts=True, **HOW)


@pytest.mark.filterwarnings("ignore:reward. deviation")  # of noise alone it says little, and says so
@pytest.mark.parametrize("select", ["best_of_n", "weighted_vote", "majority"])
@pytest.mark.parametrize("reward", ["answer_logprob", "answer_reading", "answer_rm", "deviation"])
def test_it_gives_the_scores_and_the_choice_of_a_run_with_that_reward(
    model: LatentModel, pool: list[Result], reward: str, select: str
) -> None:
    expected = latent_ext.solve(model, TEXTS, reward=reward, select=select, **HOW)
    found = latent_ext.rescore(model, pool, reward, select=select)
    for one, other in zip(found, expected, strict=True):
        assert one.scores == other.scores
        assert (one.chosen, one.votes, one.settings["reward"]) == (
            other.chosen,
            other.votes,
            other.settings["reward"],
        )
        assert one.cost == other.cost


def test_a_latent_rm_on_thoughts_scores_them_as_the_engine_did(
    model: LatentModel, pool: list[Result]
) -> None:
    expected = latent_ext.solve(model, TEXTS, reward="shipped", **HOW)
    for one, other in zip(latent_ext.rescore(model, pool, "shipped"), expected, strict=True):
        for scored, wanted in zip(one.trajectories, other.trajectories, strict=True):
            assert_close(torch.tensor(scored.step_scores), torch.tensor(wanted.step_scores), "step_score")


def test_the_pool_itself_is_not_changed(model: LatentModel, pool: list[Result]) -> None:
    before = [(result.chosen, result.scores, result.settings["reward"]) for result in pool]
    latent_ext.rescore(model, pool, "answer_logprob")
    assert [(result.chosen, result.scores, result.settings["reward"]) for result in pool] == before
    assert all(one.thoughts is not None for result in pool for one in result.trajectories)


def test_progress_counts_questions_and_nothing_gives_nothing(model: LatentModel, pool: list[Result]) -> None:
    seen: list[tuple[int, int]] = []
    latent_ext.rescore(model, pool, "answer_logprob", progress=lambda *counts: seen.append(counts))
    assert seen == [(count, len(TEXTS)) for count in range(1, len(TEXTS) + 1)]
    assert latent_ext.rescore(model, [], "answer_logprob") == []


def test_what_is_missing_is_named_before_anything_is_computed(model: LatentModel, pool: list[Result]) -> None:
    with pytest.raises(ValueError, match=r"select: got 'beam'; allowed are"):
        latent_ext.rescore(model, pool, "answer_logprob", select="beam")
    with pytest.raises(ValueError, match=r"noise_free: got results of 1 questions"):
        latent_ext.rescore(model, pool, "answer_reading", noise_free=pool[:1])
    without = [replace(pool[0], trajectories=[replace(one, thoughts=None) for one in pool[0].trajectories])]
    with pytest.raises(ValueError, match=r"results\[0\]: has no thoughts, which the reward answer_rm needs"):
        latent_ext.rescore(model, without, "answer_rm")
    undecoded = latent_ext.solve(model, TEXTS[:1], n=3, sampler="noise:0.6:relative", reward="shipped")
    with pytest.raises(ValueError, match=r"results\[0\]: has answers that were not decoded"):
        latent_ext.rescore(model, undecoded, "answer_logprob")
