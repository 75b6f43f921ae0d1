"""A LatentRM that trains reads what the engines score."""

from __future__ import annotations

import copy

import pytest
import torch
from random_models import BODIES, ENGINES, MAX_TOKENS, QUESTIONS, SEED, keys_of
from torch import Tensor

from latent_ext.engine.base import LatentRequest
from latent_ext.engine.reward_prompts import reward_prompts
from latent_ext.models import LatentModel
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler
from latent_ext.training.labelled import LabelledQuestion, collate
from latent_ext.training.reading import TrainableLatentRM, from_generator

N = 3


def question(model: LatentModel, prompt: Tensor, thoughts: Tensor) -> LabelledQuestion:
    steps = model.family.latent_length
    return LabelledQuestion(
        "q", "1", prompt, torch.tensor([5, 6]), None, thoughts, torch.zeros(N, steps, dtype=torch.int64), 1,
        torch.zeros(N, dtype=torch.bool), [None] * N, torch.ones(N, dtype=torch.bool), torch.zeros(N),
    )  # fmt: skip


def trainable(reward: LatentRM) -> TrainableLatentRM:
    module = TrainableLatentRM(copy.deepcopy(reward.module.body))
    module.load_state_dict(reward.module.state_dict())
    return module


@pytest.mark.parametrize("reference", ["none", "answer"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("body", BODIES)
def test_its_scores_are_those_of_every_engine(
    generator: torch.Generator, body: str, engine: str, reference: str
) -> None:
    model, reward = BODIES[body][0](generator), BODIES[body][1](generator)
    reward.reference = reference
    runner, steps = ENGINES[engine](model, MAX_TOKENS), model.family.latent_length
    prompts = [model.encode(text) for text in QUESTIONS]
    read = reward_prompts(runner, reward, prompts, steps=steps, max_tokens=MAX_TOKENS)
    assert reference == "answer" or all(torch.equal(a, b) for a, b in zip(read, prompts, strict=True))
    sampler = Sampler.parse("noise:0.4:relative")
    request = LatentRequest(prompts, keys_of(prompts, N), sampler, SEED)
    cache = runner.read_prompts(prompts, sampler)
    run = runner.sample(request, cache, reward, runner.read_reward_prompts(reward, read))
    questions = [
        question(model, prompt, thoughts)
        for prompt, thoughts in zip(prompts, run.thoughts.unflatten(0, (-1, N)), strict=True)
    ]
    with torch.no_grad():
        found = trainable(reward)(collate(questions, read)).scores
    assert run.scores is not None
    assert_close(found.flatten(0, 1), run.scores, "step_score")


def test_a_thought_that_is_not_finite_reaches_no_other_trajectory(generator: torch.Generator) -> None:
    model, reward = BODIES["gpt2"][0](generator), BODIES["gpt2"][1](generator)
    steps, hidden = model.family.latent_length, model.blocks.hidden_size
    thoughts = torch.randn(N, steps, hidden, generator=generator)
    prompt = model.encode(QUESTIONS[0])
    clean = question(model, prompt, thoughts)
    broken = question(model, prompt, thoughts.clone())
    broken.thoughts[1, 2] = float("nan")
    broken.usable[1] = False
    with torch.no_grad():
        module = trainable(reward)
        expected, found = (module(collate([q], [prompt])).scores[0] for q in (clean, broken))
    assert_close(found[[0, 2]], expected[[0, 2]], "step_score")


def test_it_starts_from_the_generator_and_scores_everything_zero(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    module = from_generator(model, reliable=True)
    for name, parameter in model.body.named_parameters():
        assert torch.equal(module.body.get_parameter(name), parameter)
    thoughts = torch.randn(N, model.family.latent_length, model.blocks.hidden_size, generator=generator)
    prompt = model.encode(QUESTIONS[1])
    reading = module(collate([question(model, prompt, thoughts)], [prompt]))
    assert not reading.scores.any()
    assert reading.concentration is not None
    assert bool((reading.concentration > 0).all())
    with torch.no_grad():
        module.body.get_input_embeddings().weight.zero_()
    assert model.body.get_input_embeddings().weight.any(), "the generator itself must not change"


def test_questions_of_different_width_are_not_read_together(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    prompt, steps = model.encode(QUESTIONS[0]), model.family.latent_length
    one = question(model, prompt, torch.zeros(N, steps, model.blocks.hidden_size))
    other = LabelledQuestion(**{**vars(one), "counts": one.counts[:2]})
    with pytest.raises(ValueError, match="they must agree in one batch"):
        collate([one, other], [prompt, prompt])


def test_a_reference_stands_before_the_prompts_last_token_and_is_cut_to_the_positions_left(
    generator: torch.Generator,
) -> None:
    reward = BODIES["gpt2"][1](generator, positions=16)
    prompt, answer = torch.arange(20, 28), [1, 2, 3, 4, 5]
    assert torch.equal(reward.prompt(prompt, answer, 4), prompt)
    reward.reference = "answer"
    assert reward.prompt(prompt, answer, 3).tolist() == [*range(20, 27), 1, 2, 3, 4, 5, 27]
    assert reward.prompt(prompt, answer, 6).tolist() == [*range(20, 27), 4, 5, 27]
    assert torch.equal(reward.prompt(prompt, answer, 8), prompt)
