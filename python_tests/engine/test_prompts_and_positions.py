"""Ragged batches, prompts that fill the positions, and answers that the positions cut short."""

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

import latent_ext
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

ENGINES = ("native", "modules", "reference")


@pytest.mark.parametrize("text", ["none", "dropout:0.2", "noise:0.4:relative"])
@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("engine", ENGINES)
def test_ragged_prompts_in_a_batch_equal_solo_runs(
    generator: torch.Generator, engine: str, scope: str, text: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    runner = make_engine(engine, model)
    batch = sample(runner, prompts, sampler, 2, reward=reward)
    answers = answer_all(runner, batch)
    for b, prompt in enumerate(prompts):
        solo = sample(runner, [prompt], sampler, 2, reward=reward)
        rows = slice(2 * b, 2 * b + 2)
        assert_close(batch.thoughts[rows], solo.thoughts, "latent_phase")
        assert_close(batch.scores[rows], solo.scores, "step_score")
        mine = runner.answer(batch, torch.tensor([2 * b, 2 * b + 1]), max_tokens=5)
        assert mine.tokens == answers.tokens[rows]
        assert_same_answers(model, solo, mine, answer_all(runner, solo))


def filled(model, tokens: int) -> str:  # type: ignore[no-untyped-def]
    """A question whose prompt has this many tokens."""
    frame = len(model.encode("7")) - 1
    text = "7" * (tokens - frame)
    assert len(model.encode(text)) == tokens
    return text


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_at_the_limit_of_positions_still_gives_two_tokens(
    generator: torch.Generator, engine: str, scope: str
) -> None:
    model = random_model(generator, positions=40)
    longest = 40 - 4 - 2
    results = latent_ext.solve(
        model, [filled(model, longest), "7"], n=3, engine=engine, scope=scope, temperature=1.0, max_answer_tokens=30
    )  # fmt: skip
    for trajectory in results[0].trajectories:
        assert len(trajectory.tokens) + trajectory.finished <= 2
        assert trajectory.finished or len(trajectory.tokens) == 2
    with pytest.raises(ValueError, match=f"takes at most {longest}"):
        filled(model, longest + 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_room_for_an_answer_is_that_of_its_own_question(generator: torch.Generator, engine: str) -> None:
    model = random_model(generator, positions=40)
    with torch.no_grad():
        model.hf.transformer.wte.weight[0] = 0.0  # the end of sequence hardly ever wins
    questions = [filled(model, 34), filled(model, 30), "7"]
    how = {"n": 2, "engine": engine, "max_answer_tokens": 12}
    together = latent_ext.solve(model, questions, **how)
    for question, result, room in zip(questions, together, (2, 6, 12), strict=True):
        alone = latent_ext.solve(model, question, **how)[0]
        for mine, wanted in zip(result.trajectories, alone.trajectories, strict=True):
            assert len(mine.tokens) + mine.finished <= room
            assert mine.finished or len(mine.tokens) == room
            assert len(mine.tokens) == len(wanted.tokens)


def test_an_engine_refuses_more_tokens_than_it_was_made_for(generator: torch.Generator) -> None:
    model = random_model(generator)
    for engine in ENGINES:
        runner = make_engine(engine, model, 3)
        run = sample(runner, [model.encode("7")], Sampler(), 1)
        with pytest.raises(ValueError, match="max_tokens: got 4"):
            runner.answer(run, torch.tensor([0]), max_tokens=4)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_rows_give_no_answers(generator: torch.Generator, engine: str) -> None:
    model = random_model(generator)
    runner = make_engine(engine, model)
    run = sample(runner, [model.encode("7")], Sampler(), 1)
    answers = runner.answer(run, torch.zeros(0, dtype=torch.int64), max_tokens=3)
    assert (answers.tokens, len(answers.logprobs), len(answers.finished)) == ([], 0, 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_step_scores_equal_a_plain_forward_over_prompt_and_thoughts(
    generator: torch.Generator, engine: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    runner = make_engine(engine, model)
    run = sample(runner, prompts, Sampler.parse("dropout:0.2"), 2, reward=reward)
    scores = run.scores.reshape(3, 2, -1)
    body, classifier = reward.module.transformer.double(), reward.module.classifier.double()
    for b, prompt in enumerate(prompts):
        for n in range(2):
            inputs = torch.cat([body.wte(prompt), run.thoughts[2 * b + n].double()]).unsqueeze(0)
            hidden = body(inputs_embeds=inputs).last_hidden_state[0, len(prompt) :]
            assert_close(scores[b, n], classifier(hidden)[:, 0].float(), "step_score")
