"""The engines draw the same numbers, so with sampling on they agree to rounding; without, trajectories coincide."""

from __future__ import annotations

import pytest
import torch
from random_models import (
    BODIES,
    HEADS,
    MAX_TOKENS,
    QUESTIONS,
    answer_all,
    assert_same_answers,
    make_engine,
    random_model,
    sample,
)

from latent_ext.engine.base import Engine
from latent_ext.engine.native import NativeEngine
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import WEIGHTS
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards.latent_rm import LatentRM
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


# What limits the agreement of engine "native" with float32, by number format.
STORAGE = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def assert_engines_agree(
    model: LatentModel, reward: LatentRM, sampler: Sampler, fast: Engine | None = None
) -> None:
    """Thoughts, step scores and answers of a fast engine, by default "modules", and of the reference."""
    prompts = [model.encode(question) for question in QUESTIONS]
    fast, slow = fast or make_engine("modules", model), make_engine("reference", model)
    storage = STORAGE[fast.weights]
    run = sample(fast, prompts, sampler, reward=reward)
    expected = sample(slow, prompts, sampler, reward=reward)
    assert_close(run.thoughts, expected.thoughts, "latent_phase", storage=storage)
    assert_close(run.scores, expected.scores, "step_score", storage=storage)

    for temperature in (0.0, 1.0):
        answers, slow_answers = answer_all(fast, run, temperature), answer_all(slow, expected, temperature)
        if storage == torch.float32:
            assert_same_answers(model, expected, answers, slow_answers, temperature)
        # Log probabilities compare where the answers do.
        pairs = enumerate(zip(answers.tokens, slow_answers.tokens, strict=True))
        same = torch.tensor([n for n, (got, want) in pairs if got == want], dtype=torch.int64)
        assert len(same) >= run.rows // 3
        logprobs = answers.logprobs[same], slow_answers.logprobs[same]
        assert_close(*logprobs, "answer_logprob", storage=storage)


@pytest.mark.parametrize("where", ["residual", "residual+embedding"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_native_agrees_with_reference(
    generator: torch.Generator, body: str, text: str, scope: str, where: str, weights: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope, sites=where)  # type: ignore[arg-type]
    assert_engines_agree(model, reward, sampler, NativeEngine(model, MAX_TOKENS, weights))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("text", ["none", "dropout:0.1+noise:0.4:relative"])
@pytest.mark.parametrize("head", [head for head in HEADS if head != "none"])
@pytest.mark.parametrize("body", BODIES)
def test_native_agrees_with_reference_through_a_thought_head(
    generator: torch.Generator, body: str, head: str, text: str, weights: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator, head=head), make_reward(generator)
    assert_engines_agree(model, reward, Sampler.parse(text), NativeEngine(model, MAX_TOKENS, weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("where", ["residual", "residual+embedding"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_modules_agrees_with_reference(
    generator: torch.Generator, body: str, text: str, scope: str, where: str, dtype: torch.dtype
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator, dtype=dtype), make_reward(generator, dtype=dtype)
    sampler = Sampler.parse(text, scope=scope, sites=where)  # type: ignore[arg-type]
    assert_engines_agree(model, reward, sampler)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("text", ["none", "dropout:0.1+noise:0.4:relative"])
@pytest.mark.parametrize("head", [head for head in HEADS if head != "none"])
@pytest.mark.parametrize("body", BODIES)
def test_modules_agrees_with_reference_through_a_thought_head(
    generator: torch.Generator, body: str, head: str, text: str, dtype: torch.dtype
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator, dtype=dtype, head=head), make_reward(generator, dtype=dtype)
    assert_engines_agree(model, reward, Sampler.parse(text))


LLAMA_SHAPES: dict[str, dict[str, object]] = {
    "llama3 rotary scaling": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        }
    },
    "heads wider than the hidden state": {"head_dim": 12},
    "one head of keys and values": {"num_key_value_heads": 1},
    "no grouped heads": {"num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied embeddings": {"tie_word_embeddings": True},
}  # fmt: skip


@pytest.mark.parametrize("shape", LLAMA_SHAPES, ids=str)
@pytest.mark.parametrize("engine", ["native", "modules"])
def test_engines_agree_with_reference_on_every_shape_of_llama(
    generator: torch.Generator, engine: str, shape: str
) -> None:
    make_model, make_reward = BODIES["llama"]
    changes = LLAMA_SHAPES[shape]
    model, reward = make_model(generator, **changes), make_reward(generator, **changes)
    assert_engines_agree(model, reward, Sampler.parse("dropout:0.2"), make_engine(engine, model))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("engine", ["native", "modules", "reference"])
@pytest.mark.parametrize("body", BODIES)
def test_zero_dropout_and_zero_noise_are_the_deterministic_run_bit_for_bit(
    generator: torch.Generator, body: str, engine: str, scope: str
) -> None:
    model = BODIES[body][0](generator)
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


@pytest.mark.parametrize("engine", ["native", "modules", "reference"])
def test_trajectories_of_a_deterministic_run_are_identical(generator: torch.Generator, engine: str) -> None:
    model = random_model(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    runner = make_engine(engine, model)
    run = sample(runner, prompts, Sampler(), 4)
    thoughts = run.thoughts.reshape(3, 4, *run.thoughts.shape[1:])
    assert_close(thoughts, thoughts[:, :1].expand_as(thoughts).contiguous(), "latent_phase")
    if engine != "reference":
        assert torch.equal(thoughts, thoughts[:, :1].expand_as(thoughts))
    tokens = answer_all(runner, run).tokens
    assert all(tokens[row] == tokens[row - row % 4] for row in range(12))
