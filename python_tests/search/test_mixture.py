"""Mixtures: trajectory n is that of its own sampler's run, and answers drawn by top-p agree between the engines."""

from __future__ import annotations

import pytest
import torch
from random_models import (
    BODIES,
    QUESTIONS,
    answer_all,
    make_engine,
    random_model,
    random_reward,
    sample,
)

import latent_ext
from latent_ext.samplers import Sampler

MIXTURE = "mix(dropout:0.2|noise:0.6|none|svp:0.5)"


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("body", BODIES)
def test_every_trajectory_of_a_mixture_is_that_of_its_own_sampler(
    generator: torch.Generator, body: str, scope: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)

    def solved(sampler: str, **how: object) -> list[latent_ext.Result]:
        return latent_ext.solve(
            model, list(QUESTIONS), n=10, sampler=sampler, scope=scope, reward=reward, select="weighted_vote",
            engine="native", temperature=0.8, max_answer_tokens=4, return_thoughts=True, **how,
        )  # type: ignore[arg-type]  # fmt: skip

    mixed = solved(MIXTURE)
    alone = [solved(text) for text in MIXTURE[4:-1].split("|")]
    for how in ({}, {"max_rows": 4}):
        for b, result in enumerate(solved(MIXTURE, **how)):
            assert [trajectory.index for trajectory in result.trajectories] == list(range(10))
            assert result.answer == mixed[b].answer
            for n, trajectory in enumerate(result.trajectories):
                own = alone[n % 4][b].trajectories[n]
                assert trajectory.to_dict() == own.to_dict()
                assert trajectory.key == own.key
                assert torch.equal(trajectory.thoughts, own.thoughts)  # type: ignore[arg-type]
    assert mixed[0].settings["sampler"] == MIXTURE
    assert [part["sampler"] for part in mixed[0].settings["samplers"]] == MIXTURE[4:-1].split("|")


def test_the_winner_alone_is_decoded_whatever_sampler_drew_it(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    results = latent_ext.solve(
        model, list(QUESTIONS), n=9, sampler="mix(noise:0.6|svp:0.6|none)", reward=reward
    )
    for result in results:
        decoded = [n for n, trajectory in enumerate(result.trajectories) if trajectory.tokens is not None]
        assert decoded == [result.chosen]
        assert result.best.score == max(result.scores)  # type: ignore[type-var]


def test_a_beam_takes_no_mixture(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    with pytest.raises(ValueError, match=r"^sampler: got 'mix\(none\|noise:1\)'; a beam is of one sampler"):
        latent_ext.solve(model, "7", sampler="mix(none|noise:1)", reward=reward, select="beam")


def test_a_part_that_does_not_act_is_refused_in_a_mixture_too(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"^sampler: 'state' does not act in the family"):
        latent_ext.solve(random_model(generator), "7", sampler="mix(none|state:1)")


@pytest.mark.parametrize("top_p", [0.5, 0.9])
@pytest.mark.parametrize("body", BODIES)
def test_answers_from_the_nucleus_agree_between_the_engines(
    generator: torch.Generator, body: str, top_p: float
) -> None:
    model = BODIES[body][0](generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    written, rows = {}, torch.arange(12)
    for name in ("native", "modules", "reference"):
        engine = make_engine(name, model)
        run = sample(engine, prompts, Sampler.parse("noise:0.5"), 4)
        written[name] = engine.answer(run, rows, max_tokens=4, temperature=1.3, top_p=top_p).tokens
        assert written[name] != answer_all(engine, run, 1.3, 4).tokens
    for name in ("native", "modules"):
        # A draw that rounding decides may change a row; such rows are few.
        pairs = zip(written[name], written["reference"], strict=True)
        assert sum(got != want for got, want in pairs) <= 2


@pytest.mark.parametrize(
    ("top_p", "temperature", "message"),
    [
        (0.0, 1.0, r"^top_p: got 0.0; a number in \(0, 1\] is needed"),
        (1.1, 1.0, r"^top_p: got 1.1; a number in \(0, 1\] is needed"),
        (float("nan"), 1.0, r"^top_p: got nan; a number in \(0, 1\] is needed"),
        (0.9, 0.0, "^top_p: got 0.9 with temperature=0, which draws nothing; give temperature="),
    ],
)
def test_a_top_p_that_cannot_be_is_refused(
    generator: torch.Generator, top_p: float, temperature: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        latent_ext.solve(random_model(generator), "7", n=1, top_p=top_p, temperature=temperature)
