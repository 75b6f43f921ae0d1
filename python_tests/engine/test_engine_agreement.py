"""The engines draw the same numbers, so with sampling on they agree to rounding; without, trajectories coincide."""

from __future__ import annotations

import pytest
import torch
from random_models import (
    QUESTIONS,
    answer_all,
    assert_same_answers,
    make_engine,
    random_model,
    random_reward,
    sample,
)

from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import GaussianNoise, MCDropout, Sampler

SAMPLERS = (
    "none",
    "dropout:0.2",
    "dropout:0.2:trajectory",
    "noise:0.5",
    "noise:0.4:relative",
    "dropout:0.1+noise:0.4:relative",
)
SCOPES = ("latent", "prompt+latent")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("where", ["residual", "residual+embedding"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
def test_modules_agrees_with_reference(
    generator: torch.Generator, text: str, scope: str, where: str, dtype: torch.dtype
) -> None:
    model, reward = random_model(generator, dtype=dtype), random_reward(generator, dtype=dtype)
    prompts = [model.encode(question) for question in QUESTIONS]
    sampler = Sampler.parse(text, scope=scope, sites=where)  # type: ignore[arg-type]
    fast, slow = make_engine("modules", model), make_engine("reference", model)
    run, expected = sample(fast, prompts, sampler), sample(slow, prompts, sampler)
    assert_close(run.thoughts, expected.thoughts, "latent_phase")

    scores = fast.score(reward, run, fast.read_reward_prompts(reward, prompts))
    wanted = slow.score(reward, expected, slow.read_reward_prompts(reward, prompts))
    assert_close(scores, wanted, "step_score", storage=dtype)

    for temperature in (0.0, 1.0):
        answers, slow_answers = answer_all(fast, run, temperature), answer_all(slow, expected, temperature)
        if dtype == torch.float32:
            assert_same_answers(model, expected, answers, slow_answers, temperature)
        # Log probabilities compare where the answers do.
        pairs = enumerate(zip(answers.tokens, slow_answers.tokens, strict=True))
        same = torch.tensor([n for n, (got, want) in pairs if got == want], dtype=torch.int64)
        assert len(same) >= run.rows // 3
        assert_close(answers.logprobs[same], slow_answers.logprobs[same], "answer_logprob", storage=dtype)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("engine", ["modules", "reference"])
def test_zero_dropout_and_zero_noise_are_the_deterministic_run_bit_for_bit(
    generator: torch.Generator, engine: str, scope: str
) -> None:
    model = random_model(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    runner = make_engine(engine, model)
    expected = sample(runner, prompts, Sampler(scope=scope))  # type: ignore[arg-type]
    answers = answer_all(runner, expected)
    for dropout, noise in (
        (MCDropout(0.0), None),
        (None, GaussianNoise(0.0, relative=True)),
        (MCDropout(0.0, per="trajectory", sites="residual+embedding"), GaussianNoise(0.0)),
    ):
        run = sample(runner, prompts, Sampler(dropout, noise, scope))  # type: ignore[arg-type]
        assert torch.equal(run.thoughts, expected.thoughts)
        assert answer_all(runner, run).tokens == answers.tokens


@pytest.mark.parametrize("engine", ["modules", "reference"])
def test_trajectories_of_a_deterministic_run_are_identical(generator: torch.Generator, engine: str) -> None:
    model = random_model(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    runner = make_engine(engine, model)
    run = sample(runner, prompts, Sampler(), 4)
    thoughts = run.thoughts.reshape(3, 4, *run.thoughts.shape[1:])
    assert_close(thoughts, thoughts[:, :1].expand_as(thoughts).contiguous(), "latent_phase")
    if engine == "modules":
        assert torch.equal(thoughts, thoughts[:, :1].expand_as(thoughts))
    tokens = answer_all(runner, run).tokens
    assert all(tokens[row] == tokens[row - row % 4] for row in range(12))
