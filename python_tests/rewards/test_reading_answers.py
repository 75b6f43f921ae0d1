"""A LatentRM that reads answers: one pass over all trajectories says what a plain pass over each one says."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_models import BODIES, QUESTIONS, TOKENIZER
from safetensors.torch import load_file, save_file
from torch import Tensor

import latent_ext
from latent_ext.engine.native import NativeEngine
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.hf.live_model import live_reward
from latent_ext.models import LatentModel
from latent_ext.models.checkpoint import CheckpointError
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards import AnswerReading, LatentRM, Seen
from latent_ext.rewards.answers import answer_ids, given_tokens
from latent_ext.rewards.latent_rm import LatentRMModule
from latent_ext.search.read_by_engine import on_engine
from latent_ext.training.labelled import LabelledQuestion, collate
from latent_ext.training.reading import from_generator

FORMAT = "### {answer}"
ANSWERS = ["80", "7", None, "80", "-3.5"]
N = len(ANSWERS)


def reading_reward(model: LatentModel, generator: torch.Generator, reference: str = "none") -> LatentRM:
    """Random, so that head, evidence and output embedding all matter."""
    module = from_generator(model, known_answers=AnswerReading(0.4, 0.6))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    module.eval().requires_grad_(False)
    return LatentRM(module, "random", {}, "real", reference, FORMAT)


def seen_by(model: LatentModel, generator: torch.Generator, question: str = QUESTIONS[1]) -> Seen:
    steps, hidden = model.family.latent_length, model.blocks.hidden_size
    thoughts = list(torch.randn(N, steps, hidden, generator=generator).unbind(0))
    logprobs: list[float | None] = (-torch.rand(N, generator=generator)).tolist()
    return Seen(model.encode(question), thoughts, [[5]] * N, list(ANSWERS), logprobs, "80", [2, 17])


@torch.no_grad()
def plain_score(reward: LatentRM, model: LatentModel, seen: Seen, n: int) -> Tensor:
    """One trajectory through the body alone, without pads, masks or neighbours."""
    module, answer = reward.module, seen.answers[n]
    assert seen.thoughts is not None
    assert module.evidence is not None
    embed = module.body.get_input_embeddings()
    read = torch.tensor(answer_ids(model.tokenizer, model.ids, FORMAT, answer))
    prompt = seen.prompt
    if reward.reference == "answer":
        prompt = torch.cat([prompt[:-1], torch.tensor(seen.noise_free_tokens), prompt[-1:]])
    inputs = torch.cat([embed(prompt), seen.thoughts[n], embed(read)]).unsqueeze(0)
    hidden = module.body(inputs_embeds=inputs).last_hidden_state[0, -len(read) :]
    output = embed.weight if module.lm_head is None else module.lm_head.weight
    logprobs = (hidden @ output.T).log_softmax(dim=1)
    given = given_tokens(model.tokenizer, model.ids, FORMAT)
    likelihood = sum(logprobs[place - 1, read[place]] for place in range(given, len(read)))
    known = torch.tensor([float(answer == seen.noise_free_answer), seen.logprobs[n]])
    head = module.classifier(hidden[-1])[0]
    return head + module.evidence.weight[0] @ torch.cat([known, torch.as_tensor(likelihood).reshape(1)])


@pytest.mark.parametrize("reference", ["none", "answer"])
@pytest.mark.parametrize("body", BODIES)
def test_it_scores_each_answer_as_a_plain_pass_does(
    generator: torch.Generator, body: str, reference: str
) -> None:
    model = BODIES[body][0](generator)
    reward, seen = reading_reward(model, generator, reference), seen_by(model, generator)
    scores = reward.score(model, seen)
    assert [score is None for score in scores] == [answer is None for answer in ANSWERS]
    for n, score in enumerate(scores):
        if score is not None:
            assert_close(torch.tensor(score), plain_score(reward, model, seen, n), "answer_logprob")


def test_trajectories_of_different_length_are_scored_each_by_its_own_thoughts(
    generator: torch.Generator,
) -> None:
    model = BODIES["gpt2"][0](generator)
    reward, seen = reading_reward(model, generator), seen_by(model, generator)
    assert seen.thoughts is not None
    seen = replace(seen, thoughts=[own[: 4 - n % 2] for n, own in enumerate(seen.thoughts)])
    for n, score in enumerate(reward.score(model, seen)):
        if score is not None:
            assert_close(torch.tensor(score), plain_score(reward, model, seen, n), "answer_logprob")


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("body", BODIES)
def test_the_native_engine_reads_answers_as_plain_pytorch_does(
    generator: torch.Generator, body: str, weights: str
) -> None:
    model = BODIES[body][0](generator)
    engine = NativeEngine(model, 5, weights)
    for reference in ("none", "answer"):
        reward, seen = reading_reward(model, generator, reference), seen_by(model, generator)
        found = on_engine(reward, engine).score(model, seen)
        for score, expected in zip(found, reward.score(model, seen), strict=True):
            assert (score is None) == (expected is None)
            if score is not None:
                dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[weights]
                assert_close(torch.tensor(score), torch.tensor(expected), "answer_logprob", dtype)


@pytest.mark.parametrize("engine", ["native", "modules"])
def test_solve_gives_the_scores_of_what_it_returns(generator: torch.Generator, engine: str) -> None:
    model = latent_ext.load()
    reward = reading_reward(model, generator)
    texts = [problem.question for problem in shipped_problems("test_5", 3)]
    how = {"sampler": "noise:0.6:relative", "max_answer_tokens": 24, "engine": engine}
    greedy = latent_ext.solve(model, texts, n=1, **(how | {"sampler": "none"}))
    results = latent_ext.solve(model, texts, n=5, reward=reward, return_thoughts=True, **how)
    for text, alone, result in zip(texts, greedy, results, strict=True):
        seen = Seen(
            model.encode(text),
            [one.thoughts for one in result.trajectories if one.thoughts is not None],
            [],
            result.answers,
            [one.logprob for one in result.trajectories],
            alone.trajectories[0].answer,
            alone.trajectories[0].tokens or [],
        )
        for found, expected in zip(result.scores, reward.score(model, seen), strict=True):
            assert (found is None) == (expected is None)
            if found is not None:
                assert_close(torch.tensor(found), torch.tensor(expected), "answer_logprob")


@pytest.mark.parametrize("body", BODIES)
def test_a_training_batch_reads_the_same_and_the_gold_answer_beside_it(
    generator: torch.Generator, body: str
) -> None:
    model = BODIES[body][0](generator)
    reward = reading_reward(model, generator)
    many = [seen_by(model, generator, question) for question in QUESTIONS]
    given = given_tokens(model.tokenizer, model.ids, FORMAT)
    batch = collate(
        [labelled(seen, gold="123") for seen in many],
        [seen.prompt for seen in many],
        lambda answer: answer_ids(model.tokenizer, model.ids, FORMAT, answer),
        with_gold=True,
    )
    with torch.no_grad():
        reading = reward.module(replace(batch, given=given))
    assert reading.scores.shape == (len(many), N, 1)
    for b, seen in enumerate(many):
        # What an answer scores does not depend on the gold answer that stands beside it.
        for n, score in enumerate(reward.score(model, seen)):
            if score is not None:
                assert_close(torch.tensor(score), reading.scores[b, n, 0], "answer_logprob")
        # The gold answer behind another trajectory's thoughts has the likelihood that this answer would have.
        gold = replace(seen, answers=["123"] * N)
        told = replace(reward, module=evidence_of_likelihood_alone(reward))
        expected = torch.tensor(told.score(model, gold))
        assert_close(reading.gold_likelihood[b], expected, "answer_logprob")


def evidence_of_likelihood_alone(reward: LatentRM) -> LatentRMModule:
    module = copy.deepcopy(reward.module)
    assert module.evidence is not None
    for parameter in module.classifier.parameters():
        parameter.zero_()
    module.evidence.weight.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
    return module


def labelled(seen: Seen, gold: str) -> LabelledQuestion:
    assert seen.thoughts is not None
    thoughts = torch.stack(seen.thoughts)
    return LabelledQuestion(
        "q", gold, seen.prompt, torch.tensor(seen.noise_free_tokens), seen.noise_free_answer, thoughts,
        torch.zeros(N, thoughts.shape[1], dtype=torch.int64), 1, torch.zeros(N, dtype=torch.bool), list(seen.answers),
        torch.ones(N, dtype=torch.bool), torch.tensor(seen.logprobs),
    )  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_it_starts_from_what_is_known_of_answers(generator: torch.Generator, body: str) -> None:
    model = BODIES[body][0](generator)
    module = from_generator(model, known_answers=AnswerReading(0.4, 0.6)).requires_grad_(False)
    reward, seen = LatentRM(module.eval(), "new", answer_format=FORMAT), seen_by(model, generator)
    likelihood = replace(reward, module=evidence_of_likelihood_alone(reward)).score(model, seen)
    for n, (score, own) in enumerate(zip(reward.score(model, seen), likelihood, strict=True)):
        if score is not None:
            expected = 0.4 * (ANSWERS[n] == "80") + 0.3 * seen.logprobs[n] + 0.3 * own
            assert_close(torch.tensor(score), torch.tensor(expected), "answer_logprob")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_scores_nearly_the_same(
    generator: torch.Generator, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = BODIES["gpt2"][0](generator)
    reward, seen = reading_reward(model, generator), seen_by(model, generator)
    latent_ext.save_reward(reward, tmp_path)
    rounded = latent_ext.load_reward(tmp_path, dtype=dtype).score(model, seen)
    for score, expected in zip(rounded, reward.score(model, seen), strict=True):
        assert (score is None) == (expected is None)
        if score is not None:
            assert_close(torch.tensor(score), torch.tensor(expected), "answer_logprob", torch.bfloat16)


@pytest.mark.parametrize("reference", ["none", "answer"])
def test_a_score_does_not_depend_on_the_trajectories_beside_it(
    generator: torch.Generator, reference: str
) -> None:
    model = BODIES["gpt2"][0](generator)
    reward, seen = reading_reward(model, generator, reference), seen_by(model, generator)
    # A noise-free answer that fills what is left of the positions, and answers of very different length.
    room = model.max_positions - len(seen.prompt) - model.family.latent_length
    seen = replace(
        seen, noise_free_tokens=[5 + n % 7 for n in range(room)], answers=["80", "7", "1" * 12, "3", "4"]
    )
    assert seen.thoughts is not None
    together = reward.score(model, seen)
    for n, score in enumerate(together):
        alone = Seen(
            seen.prompt,
            [seen.thoughts[n]],
            [[5]],
            [seen.answers[n]],
            [seen.logprobs[n]],
            "80",
            seen.noise_free_tokens,
        )
        assert_close(torch.tensor(reward.score(model, alone)[0]), torch.tensor(score), "answer_logprob")


def test_a_batch_of_long_prompts_and_long_answers_stays_within_the_positions(
    generator: torch.Generator,
) -> None:
    model = BODIES["gpt2"][0](generator)
    reward = reading_reward(model, generator)
    short, long = seen_by(model, generator, "7"), seen_by(model, generator, QUESTIONS[0])
    room = (
        model.max_positions - model.family.latent_length - len(answer_ids(TOKENIZER, model.ids, FORMAT, ""))
    )
    short = replace(short, answers=["1" * (room - len(short.prompt) - 2)] * N)
    long = replace(long, answers=["5", "5", "5", "5", "1" * room])
    given = given_tokens(model.tokenizer, model.ids, FORMAT)
    batch = collate(
        [labelled(short, "1"), labelled(long, "1")],
        [short.prompt, long.prompt],
        lambda answer: answer_ids(model.tokenizer, model.ids, FORMAT, answer),
        max_positions=model.max_positions,
    )
    assert batch.usable.tolist() == [[True] * N, [True] * 4 + [False]]
    with torch.no_grad():
        scores = reward.module(replace(batch, given=given)).scores[:, :, 0]
    for b, seen in enumerate((short, long)):
        for n, score in enumerate(reward.score(model, seen)):
            assert (score is not None) == bool(batch.usable[b, n])
            if score is not None:
                assert_close(scores[b, n], torch.tensor(score), "answer_logprob")


def test_training_ranks_only_what_has_an_answer_and_is_known(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    seen = seen_by(model, generator)
    logprobs: list[float | None] = [*seen.logprobs[:3], float("-inf"), float("nan")]
    question = labelled(replace(seen, logprobs=logprobs), "1")
    batch = collate(
        [question], [seen.prompt], lambda answer: answer_ids(TOKENIZER, model.ids, FORMAT, answer)
    )
    assert batch.answered.tolist() == [[True, True, False, False, False]]
    assert collate([question], [seen.prompt]).answered.all()


def test_a_tokenizer_that_does_not_tell_numbers_apart_is_refused(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)

    def blind(text: str, **_how: object) -> dict[str, list[int]]:
        return {"input_ids": [7] * len(text.split())}

    with pytest.raises(
        ValueError, match=r"tokenizer: reads '### \{answer\}' with 1 and with 2 as the same tokens"
    ):
        given_tokens(blind, model.ids, FORMAT)


def test_no_room_for_any_answer_is_said(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    reward = replace(reading_reward(model, generator), answer_format="7 " * 80 + "{answer}")
    with pytest.warns(RuntimeWarning, match="reward: random has no room for any answer"):
        assert reward.score(model, seen_by(model, generator)) == [None] * N


def test_what_cannot_be_read_has_no_score(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    reward, seen = reading_reward(model, generator), seen_by(model, generator)
    room = model.max_positions - len(seen.prompt) - model.family.latent_length
    longest = len(answer_ids(model.tokenizer, model.ids, FORMAT, "1" * room))
    fits, too_long = "1" * (2 * room - longest), "1" * (2 * room - longest + 1)
    seen = replace(
        seen, answers=["80", fits, too_long, "80", "7"], logprobs=[-1.0, -1.0, -1.0, float("-inf"), None]
    )
    assert [score is None for score in reward.score(model, seen)] == [False, False, True, True, True]


@pytest.mark.parametrize("body", BODIES)
def test_it_comes_back_from_disk_with_the_same_scores(
    generator: torch.Generator, tmp_path: Path, body: str
) -> None:
    model = BODIES[body][0](generator)
    reward, seen = reading_reward(model, generator), seen_by(model, generator)
    latent_ext.save_reward(reward, tmp_path)
    loaded = latent_ext.load_reward(tmp_path)
    assert loaded.answer_format == FORMAT
    assert not loaded.by_step
    assert loaded.score(model, seen) == reward.score(model, seen)
    with pytest.raises(ValueError, match="positions: 'published' knows thoughts alone"):
        latent_ext.load_reward(tmp_path, positions="published")
    with pytest.raises(ValueError, match="layout: 'latenttts' has thoughts alone"):
        latent_ext.save_reward(reward, tmp_path / "other", layout="latenttts")


@pytest.mark.parametrize(
    ("answer_format", "message"),
    [
        ("no place", r"reward: .* in config.json answer_format: got 'no place'; a text with \{answer\} once"),
        ("{answer} {answer}", "answer_format: got"),
        (5, "answer_format: got 5"),
        (None, "has answer_format None in config.json and a tensor evidence.weight"),
    ],
)
def test_a_directory_that_contradicts_itself_is_refused(
    generator: torch.Generator, tmp_path: Path, answer_format: object, message: str
) -> None:
    model = BODIES["gpt2"][0](generator)
    latent_ext.save_reward(reading_reward(model, generator), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"answer_format": answer_format}))
    with pytest.raises(CheckpointError, match=message):
        latent_ext.load_reward(tmp_path)


@pytest.mark.parametrize("shape", [(), (20, 40), (106,)])
def test_an_output_embedding_that_does_not_fit_is_refused(
    generator: torch.Generator, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    model = BODIES["llama"][0](generator)
    latent_ext.save_reward(reading_reward(model, generator), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | {"lm_head.weight": torch.zeros(shape)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight of shape .*; \(\d+, 40\) is needed"):
        latent_ext.load_reward(tmp_path)


def test_solve_takes_it_where_all_answers_are_known(generator: torch.Generator) -> None:
    model = latent_ext.load()
    reward = reading_reward(model, generator)
    question = "Mia has 19 apples. She loses 9. How many apples does Mia have now?"
    how = {"n": 6, "sampler": "noise:0.6:relative", "reward": reward}
    (result,) = latent_ext.solve(model, question, **how)
    scores = [score for score in result.scores if score is not None]
    assert result.best.score == max(scores)
    assert all(trajectory.tokens is not None for trajectory in result.trajectories)
    with pytest.raises(
        ValueError, match=r"reward: random cannot guide select='beam'.*that reads thoughts alone"
    ):
        latent_ext.solve(model, question, sampler="noise:0.6:relative", reward=reward, select="beam")


def test_generate_refuses_it(generator: torch.Generator) -> None:
    model = BODIES["gpt2"][0](generator)
    with pytest.raises(ValueError, match="process_reward_model: reads answers"):
        live_reward(reading_reward(model, generator), model.blocks.hidden_size)
