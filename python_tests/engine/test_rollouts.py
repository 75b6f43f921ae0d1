"""Roll-outs continue the very trajectory that they belong to."""

from __future__ import annotations

import pytest
import torch
from random_models import BODIES, MAX_TOKENS, QUESTIONS, SEED, answer_all, keys_of, sample

from latent_ext.engine.native import NativeEngine
from latent_ext.engine.rollouts import Rollouts
from latent_ext.ops.keys import rollout_key
from latent_ext.ops.philox import normals
from latent_ext.ops.sites import NOISE
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

SAMPLERS = ("noise:0.4:relative", "dropout:0.3", "dropout:0.3:trajectory+noise:0.6")
N = 3


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_a_rollout_under_its_trajectorys_own_key_is_that_trajectory(
    generator: torch.Generator, body: str, text: str, scope: str
) -> None:
    model = BODIES[body][0](generator)
    engine, sampler = NativeEngine(model, MAX_TOKENS), Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    run = sample(engine, [model.encode(question) for question in QUESTIONS], sampler, N)
    expected = answer_all(engine, run, temperature=1.0)
    room, own = Rollouts(engine, run, 2), run.request.keys.reshape(-1, 1)
    # Early thoughts last: what later roll-outs wrote must not reach them.
    for thought in (3, 1, 2, 1):
        fresh = rollout_key(own, thought, 0)
        branched = room.continue_from(thought, torch.cat([own, fresh], dim=1), sampler)
        thoughts = branched.thoughts.unflatten(0, (run.rows, 2))
        assert torch.equal(thoughts[:, 0], run.thoughts)
        assert torch.equal(thoughts[:, 1, :thought], run.thoughts[:, :thought])
        assert not torch.isclose(thoughts[:, 1, thought], run.thoughts[:, thought]).all(dim=1).any()
        answers = answer_all(engine, branched, temperature=1.0)
        assert answers.tokens[::2] == expected.tokens
        assert torch.equal(answers.logprobs[::2], expected.logprobs)


@torch.no_grad()
def test_a_rollout_is_what_hugging_face_computes_from_the_shared_thoughts(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    engine, sampler = NativeEngine(model, MAX_TOKENS), Sampler.parse("noise:0.4:relative")
    prompts = [model.encode(question) for question in QUESTIONS]
    run = sample(engine, prompts, sampler, N)
    keys = rollout_key(run.request.keys.reshape(-1, 1), 2, torch.arange(2))
    branched = Rollouts(engine, run, 2).continue_from(2, keys, sampler)
    embed = model.hf.get_input_embeddings()
    expected = []
    for row in range(run.rows):
        prompt = prompts[row // N]
        for key in keys[row]:
            thoughts = run.thoughts[row, :2]
            for step in range(2, run.thoughts.shape[1]):
                read = torch.cat([embed(prompt), thoughts]).unsqueeze(0)
                clean = model.body(inputs_embeds=read).last_hidden_state[0, -1]
                position = torch.tensor([len(prompt) + step])
                noise = normals(SEED, key.reshape(1), position, NOISE, len(clean))[0]
                noisy = clean + 0.4 * clean.square().mean().sqrt() * noise
                thoughts = torch.cat([thoughts, noisy.unsqueeze(0)])
            expected.append(thoughts)
    assert_close(branched.thoughts, torch.stack(expected), "latent_phase")


def test_without_noise_all_rollouts_are_the_noise_free_continuation(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    engine = NativeEngine(model, MAX_TOKENS)
    run = sample(engine, [model.encode(QUESTIONS[0])], Sampler.parse("noise:0.4"), N)
    keys = rollout_key(run.request.keys.reshape(-1, 1), 1, torch.arange(2))
    first, second = (
        Rollouts(engine, run, 2).continue_from(1, keys, Sampler()).thoughts.unflatten(0, (N, 2)).unbind(1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, run.thoughts)


@pytest.mark.parametrize("thought", [0, 4])
def test_a_thought_after_which_there_is_none_is_refused(generator: torch.Generator, thought: int) -> None:
    model = BODIES["gpt2"][0](generator)
    engine, sampler = NativeEngine(model, MAX_TOKENS), Sampler.parse("noise:0.4")
    run = sample(engine, [model.encode(QUESTIONS[0])], sampler, N)
    with pytest.raises(ValueError, match=f"thought: got {thought}; 1 to 3"):
        Rollouts(engine, run, 1).continue_from(thought, run.request.keys.reshape(-1, 1), sampler)


def test_more_rollouts_than_there_is_room_for_are_refused(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    engine, sampler = NativeEngine(model, MAX_TOKENS), Sampler.parse("noise:0.4")
    run = sample(engine, [model.encode(QUESTIONS[0])], sampler, N)
    with pytest.raises(ValueError, match=r"keys: got shape \(3, 2\)"):
        Rollouts(engine, run, 1).continue_from(1, keys_of(run.request.prompts, 6).reshape(3, 2), sampler)
