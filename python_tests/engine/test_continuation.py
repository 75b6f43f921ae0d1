"""A continuation keeps what its trajectory has read and said, and draws the rest under its own key."""

from __future__ import annotations

import pytest
import torch
from random_models import (
    BODIES,
    QUESTIONS,
    SEED,
    answer_all,
    assert_same_answers,
    keys_of,
    make_engine,
    random_model,
    random_reward,
    sample,
)
from torch import Tensor

from latent_ext.engine import choose, native_steps
from latent_ext.engine.base import Engine, LatentRun
from latent_ext.engine.continuation import check_continuable, continue_rows
from latent_ext.engine.prompt_caches import select_prompts
from latent_ext.engine.replay import RereadingEngine
from latent_ext.ops.keys import rollout_key
from latent_ext.ops.philox import normals
from latent_ext.ops.sites import NOISE
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

NAMED_ENGINES = tuple(choose.ENGINES)
SAMPLERS = ("noise:0.4:relative", "svp:0.6", "dropout:0.3", "dropout:0.3:trajectory+noise:0.6")
N = 3
# One trajectory each of the last and the first question, another one than the first of both.
ROWS = torch.tensor([1, 2 * N + 2])
PLACES = [0, 2]


def continued(
    engine: Engine, run: LatentRun, kept: int, keys: Tensor, reward: LatentRM, rows: Tensor = ROWS
) -> LatentRun:
    prompts = [run.request.prompts[row // run.trajectories] for row in rows.tolist()]
    return continue_rows(engine, run, rows, kept, keys, reward, engine.read_reward_prompts(reward, prompts))


def fresh_keys(run: LatentRun, kept: int, count: int, rows: Tensor = ROWS) -> Tensor:
    return rollout_key(run.keys.reshape(-1)[rows].unsqueeze(1), kept, torch.arange(count))


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", NAMED_ENGINES)
def test_under_its_trajectorys_own_key_it_is_that_trajectory(
    generator: torch.Generator, name: str, body: str, text: str, scope: str
) -> None:
    model, reward = (build(generator) for build in BODIES[body])
    engine, sampler = make_engine(name, model), Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    run = sample(engine, [model.encode(question) for question in QUESTIONS], sampler, N, reward=reward)
    wanted, own = answer_all(engine, run, temperature=1.0), run.keys.reshape(-1)[ROWS].unsqueeze(1)
    for kept in (3, 1, 2):
        keys = torch.cat([own, fresh_keys(run, kept, 1)], dim=1)
        more = continued(engine, run, kept, keys, reward)
        thoughts, scores = more.thoughts.unflatten(0, (2, 2)), more.scores.unflatten(0, (2, 2))
        # What is kept is the same bits on every engine, whatever the key.
        assert torch.equal(thoughts[:, :, :kept], run.thoughts[ROWS, None, :kept].expand(2, 2, -1, -1))
        assert torch.equal(scores[:, :, :kept], run.scores[ROWS, None, :kept].expand(2, 2, -1))
        assert not torch.isclose(thoughts[:, 1, kept], run.thoughts[ROWS, kept]).all(dim=1).any()
        answers = answer_all(engine, more, temperature=1.0)
        if name == "native":
            assert torch.equal(thoughts[:, 0], run.thoughts[ROWS])
            assert torch.equal(scores[:, 0], run.scores[ROWS])
            assert answers.tokens[::2] == [wanted.tokens[row] for row in ROWS]
            assert torch.equal(answers.logprobs[::2], wanted.logprobs[ROWS])
        else:
            assert_close(thoughts[:, 0], run.thoughts[ROWS], "latent_phase")
            assert_close(scores[:, 0], run.scores[ROWS], "step_score")


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", ["native", "modules"])
def test_fast_engines_continue_as_the_reference_does(
    generator: torch.Generator, name: str, body: str, text: str, scope: str
) -> None:
    model, reward = (build(generator) for build in BODIES[body])
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    found = []
    for engine in (make_engine(name, model), make_engine("reference", model)):
        run = sample(engine, [model.encode(question) for question in QUESTIONS], sampler, N, reward=reward)
        once = continued(engine, run, 1, fresh_keys(run, 1, 2), reward)
        # A continuation can be continued, before and behind the thought that it was continued from.
        again = torch.tensor([1, 2])
        late = continued(engine, once, 3, fresh_keys(once, 3, 3, again), reward, again)
        early = continued(
            engine, late, 2, fresh_keys(late, 2, 2, torch.tensor([5])), reward, torch.tensor([5])
        )
        found.append([(one, answer_all(engine, one)) for one in (once, late, early)])
    for (got, answers), (wanted, expected) in zip(*found, strict=True):
        assert got.request.questions == wanted.request.questions
        assert_close(got.thoughts, wanted.thoughts, "latent_phase")
        assert_close(got.scores, wanted.scores, "step_score")
        assert torch.equal(got.keys, wanted.keys)
        assert_same_answers(model, wanted, answers, expected)


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("text", ["svp:0.6", "dropout:0.3"])
@pytest.mark.parametrize("name", ["native", "modules"])
def test_continuations_are_read_again_as_the_reference_reads_them(
    generator: torch.Generator, name: str, text: str, scope: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    sampler, found = Sampler.parse(text, scope=scope), []  # type: ignore[arg-type]
    for engine in (make_engine(name, model), make_engine("reference", model)):
        run = sample(engine, [model.encode(question) for question in QUESTIONS], sampler, N, reward=reward)
        more = continued(engine, run, 2, fresh_keys(run, 2, 2), reward)
        assert isinstance(engine, RereadingEngine)
        found.append((more, answer_all(engine, engine.reread(more, torch.arange(4)))))
    (_, got), (more, wanted) = found
    assert_same_answers(model, more, got, wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMED_ENGINES)
def test_it_is_what_hugging_face_computes_from_the_kept_thoughts(
    generator: torch.Generator, name: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    engine, kept = make_engine(name, model), 2
    prompts = [model.encode(question) for question in QUESTIONS]
    run = sample(engine, prompts, Sampler.parse("noise:0.4:relative"), N, reward=reward)
    keys = fresh_keys(run, kept, 2)
    more = continued(engine, run, kept, keys, reward)
    embed, scorer = model.hf.get_input_embeddings(), reward.module
    expected, scores = [], []
    for row, own in zip(ROWS.tolist(), keys, strict=True):
        prompt = prompts[row // N]
        for key in own:
            thoughts = run.thoughts[row, :kept]
            for step in range(kept, run.thoughts.shape[1]):
                read = torch.cat([embed(prompt), thoughts]).unsqueeze(0)
                clean = model.body(inputs_embeds=read).last_hidden_state[0, -1]
                noise = normals(SEED, key.reshape(1), torch.tensor([len(prompt) + step]), NOISE, len(clean))[
                    0
                ]
                noisy = clean + 0.4 * clean.square().mean().sqrt() * noise
                thoughts = torch.cat([thoughts, noisy.unsqueeze(0)])
            expected.append(thoughts)
            read = torch.cat([scorer.body.get_input_embeddings()(prompt), thoughts]).unsqueeze(0)
            scores.append(scorer.score(scorer.body(inputs_embeds=read).last_hidden_state[0, len(prompt) :]))
    assert_close(more.thoughts, torch.stack(expected), "latent_phase")
    assert_close(more.scores, torch.stack(scores), "step_score")


def test_rows_that_are_continued_together_change_nothing(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    engine = make_engine("native", model)
    prompts = [model.encode(question) for question in QUESTIONS]
    run = sample(engine, prompts, Sampler.parse("dropout:0.3"), N, reward=reward)
    together = continued(engine, run, 2, fresh_keys(run, 2, 4), reward)
    for b, row in enumerate(ROWS.split(1)):
        alone = continued(engine, run, 2, fresh_keys(run, 2, 3, row), reward, row)
        rows = slice(4 * b, 4 * b + 3)
        assert torch.equal(alone.thoughts, together.thoughts[rows])
        assert torch.equal(alone.scores, together.scores[rows])
        answers, expected = answer_all(engine, alone), answer_all(engine, together)
        assert answers.tokens == expected.tokens[rows]
        assert torch.equal(answers.logprobs, expected.logprobs[rows])


@pytest.mark.parametrize("body", BODIES)
def test_the_native_scores_of_given_thoughts_are_the_bits_of_the_latent_phase(
    generator: torch.Generator, body: str
) -> None:
    model, reward = (build(generator) for build in BODIES[body])
    engine, prompts = make_engine("native", model), [model.encode(question) for question in QUESTIONS]
    run = sample(engine, prompts, Sampler.parse("noise:0.4"), N, reward=reward)
    cache = engine.read_reward_prompts(reward, prompts)
    assert torch.equal(native_steps.scores_of(engine, run.thoughts, reward, cache), run.scores)
    some = run.thoughts.unflatten(0, (3, N))[PLACES].flatten(0, 1)
    wanted = run.scores.unflatten(0, (3, N))[PLACES].flatten(0, 1)
    assert torch.equal(native_steps.scores_of(engine, some, reward, select_prompts(cache, PLACES)), wanted)


@pytest.mark.parametrize("kept", [0, 4])
def test_a_thought_after_which_there_is_none_is_refused(generator: torch.Generator, kept: int) -> None:
    model, reward = random_model(generator), random_reward(generator)
    engine = make_engine("native", model)
    run = sample(engine, [model.encode(QUESTIONS[0])], Sampler.parse("noise:0.4"), N, reward=reward)
    with pytest.raises(ValueError, match=f"kept: got {kept}; 1 to 3 are allowed, of 4 thoughts"):
        continued(engine, run, kept, keys_of(run.request.prompts, 2), reward, torch.tensor([0]))


def test_an_engine_that_continues_no_trajectory_is_refused(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    engine = make_engine("native, graph", model)
    run = sample(engine, [model.encode(QUESTIONS[0])], Sampler.parse("noise:0.4"), N, reward=reward)
    with pytest.raises(RuntimeError, match="extend: got native, CudaEngine, which continues no trajectory"):
        continued(engine, run, 1, keys_of(run.request.prompts, 2), reward, torch.tensor([0]))


def test_a_model_with_a_single_thought_has_none_to_continue_from(generator: torch.Generator) -> None:
    check_continuable(random_model(generator, latent_length=2))
    with pytest.raises(ValueError, match="one of its thoughts but the last; latent_length=1 leaves none"):
        check_continuable(random_model(generator, latent_length=1))
