"""Given thoughts are read clean: what an engine then answers is what stock modules answer to prompt and thoughts."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from random_models import (
    BODIES,
    MAX_TOKENS,
    QUESTIONS,
    answer_all,
    assert_same_answers,
    make_engine,
    random_model,
    sample,
)

from latent_ext.engine.base import Answers, LatentRun
from latent_ext.engine.choose import choose_engine
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.replay import RereadingEngine
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import WEIGHTS
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

SAMPLERS = ("dropout:0.3", "dropout:0.3:trajectory", "dropout:0.2+noise:0.4:relative", "svp:0.6", "wv:0.2")
SCOPES = ("latent", "prompt+latent")
# Engine native has no dense noise on W_V.
FAST = [case for case in product(["native", "modules"], SAMPLERS) if case != ("native", "wv:0.2")]


def engine_of(name: str, model: LatentModel) -> RereadingEngine:
    engine = make_engine(name, model, 20)
    assert isinstance(engine, RereadingEngine)
    return engine


def reread_all(engine: RereadingEngine, run: LatentRun) -> LatentRun:
    return engine.reread(run, torch.arange(run.rows))


def prompts_of(model: LatentModel) -> list[torch.Tensor]:
    return [model.encode(question) for question in QUESTIONS]


@torch.no_grad()
def stock_logprobs(model: LatentModel, run: LatentRun, answers: Answers) -> torch.Tensor:
    """Of the answers, by one stock pass over prompt, thoughts, end token and answer, without a cache."""
    embed, found = model.hf.get_input_embeddings(), []
    for row, tokens, ended in zip(answers.rows.tolist(), answers.tokens, answers.finished, strict=True):
        prompt = run.request.prompts[row // run.trajectories]
        drawn = torch.tensor(tokens + [model.ids.eos] * bool(ended))
        read = torch.cat([torch.tensor([model.ids.end]), drawn[:-1]])
        inputs = torch.cat([embed(prompt), run.thoughts[row], embed(read)]).unsqueeze(0)
        logits = model.hf(inputs_embeds=inputs).logits[0, -len(drawn) :]
        found.append(logits.float().log_softmax(1).gather(1, drawn.unsqueeze(1)).sum())
    return torch.stack(found)


def suffix_bytes(engine: str, run: LatentRun) -> int:
    """Of keys and values behind the prompts."""
    state: Any = run.state
    pages = [state.key, state.value] if engine == "native" else [*state.pages.keys, *state.pages.values]
    return sum(page.nbytes for page in pages)


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("engine", "text"), [*FAST, *product(["reference"], SAMPLERS)])
@pytest.mark.parametrize("body", BODIES)
def test_the_answer_hangs_on_the_thoughts_alone(
    generator: torch.Generator, body: str, engine: str, text: str, scope: str, length: int
) -> None:
    model = BODIES[body][0](generator, latent_length=length)
    fast = engine_of(engine, model)
    run = sample(fast, prompts_of(model), Sampler.parse(text, scope=scope))  # type: ignore[arg-type]
    before = answer_all(fast, run, max_tokens=20)
    clean = reread_all(fast, run)
    after = answer_all(fast, clean, max_tokens=20)
    assert_close(after.logprobs, stock_logprobs(model, clean, after), "answer_logprob")
    # The run that was read again is not changed, and its masks did matter.
    again = answer_all(fast, run, max_tokens=20)
    assert again.tokens == before.tokens
    assert torch.equal(again.logprobs, before.logprobs)
    assert not torch.allclose(before.logprobs, after.logprobs)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("where", ["residual", "residual+embedding"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("engine", "text"), FAST)
@pytest.mark.parametrize("body", BODIES)
def test_engines_agree_with_the_reference_on_what_they_read_again(
    generator: torch.Generator, body: str, engine: str, text: str, scope: str, where: str, temperature: float
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope, sites=where)  # type: ignore[arg-type]
    found = []
    for name in (engine, "reference"):
        one = engine_of(name, model)
        run = sample(one, prompts_of(model), sampler, reward=reward)
        clean = reread_all(one, run)
        assert torch.equal(clean.thoughts, run.thoughts)
        assert torch.equal(clean.scores, run.scores)  # type: ignore[arg-type]
        found.append((clean, answer_all(one, clean, temperature)))
    (_, fast), (expected, slow) = found
    assert_same_answers(model, expected, fast, slow, temperature)
    same = [n for n, (got, want) in enumerate(zip(fast.tokens, slow.tokens, strict=True)) if got == want]
    assert len(same) >= expected.rows // 3
    assert_close(fast.logprobs[same], slow.logprobs[same], "answer_logprob")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("engine", ["native", "modules", "reference"])
@pytest.mark.parametrize("body", BODIES)
def test_rows_that_will_be_answered_may_be_read_alone(
    generator: torch.Generator, body: str, engine: str, scope: str
) -> None:
    model = BODIES[body][0](generator)
    fast, sampler = engine_of(engine, model), Sampler.parse("dropout:0.3", scope=scope)  # type: ignore[arg-type]
    # Of three questions' trajectories: two of the first, none of the second, one of the third.
    rows = torch.tensor([0, 2, 7])
    run = sample(fast, prompts_of(model), sampler)
    answers = fast.answer(fast.reread(run, rows), rows, max_tokens=MAX_TOKENS)
    whole = answer_all(fast, reread_all(fast, run))
    if engine == "native":
        assert torch.equal(answers.logprobs, whole.logprobs[rows])
        assert answers.tokens == [whole.tokens[row] for row in rows.tolist()]
    assert_close(answers.logprobs, stock_logprobs(model, run, answers), "answer_logprob")


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("head", ["none", "projector"])
@pytest.mark.parametrize("body", BODIES)
def test_noise_on_thoughts_leaves_nothing_to_clean_bit_for_bit_in_the_native_engine(
    generator: torch.Generator, body: str, head: str, weights: str
) -> None:
    model = BODIES[body][0](generator, head=head)
    engine = NativeEngine(model, MAX_TOKENS, weights)
    run = sample(engine, prompts_of(model), Sampler.parse("noise:0.5:relative"))
    first, again = answer_all(engine, run), answer_all(engine, reread_all(engine, run))
    assert again.tokens == first.tokens
    assert torch.equal(again.logprobs, first.logprobs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("engine", ["modules", "reference"])
@pytest.mark.parametrize("body", BODIES)
def test_noise_on_thoughts_leaves_nothing_to_clean(
    generator: torch.Generator, body: str, engine: str, dtype: torch.dtype
) -> None:
    model = BODIES[body][0](generator, dtype=dtype)
    fast = engine_of(engine, model)
    run = sample(fast, prompts_of(model), Sampler.parse("noise:0.5:relative"))
    first, again = answer_all(fast, run, max_tokens=1), answer_all(fast, reread_all(fast, run), max_tokens=1)
    same = [n for n in range(run.rows) if again.tokens[n] == first.tokens[n]]
    assert len(same) >= run.rows // 2
    assert_close(again.logprobs[same], first.logprobs[same], "answer_logprob", storage=dtype)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("body", BODIES)
def test_batch_mates_change_no_bit_of_what_the_native_engine_reads_again(
    generator: torch.Generator, body: str, scope: str
) -> None:
    model = BODIES[body][0](generator)
    engine, sampler = engine_of("native", model), Sampler.parse("dropout:0.3", scope=scope)  # type: ignore[arg-type]
    prompts = prompts_of(model)
    together = answer_all(engine, reread_all(engine, sample(engine, prompts, sampler)))
    alone = [answer_all(engine, reread_all(engine, sample(engine, [one], sampler))) for one in prompts]
    assert together.tokens == [tokens for one in alone for tokens in one.tokens]
    assert torch.equal(together.logprobs, torch.cat([one.logprobs for one in alone]))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("engine", ["native", "modules"])
@pytest.mark.parametrize("body", BODIES)
def test_the_memory_plan_has_room_for_a_run_and_its_second_reading(
    generator: torch.Generator, body: str, engine: str, scope: str
) -> None:
    model = BODIES[body][0](generator, latent_length=6)
    fast, sampler = engine_of(engine, model), Sampler.parse("dropout:0.3", scope=scope)  # type: ignore[arg-type]
    prompt = model.encode(QUESTIONS[0])
    run = sample(fast, [prompt], sampler, count=8)
    held = suffix_bytes(engine, run) + suffix_bytes(engine, reread_all(fast, run))
    assert 0 < held <= run.rows * fast.bytes_per_row(model, Sampler(), len(prompt), 1)


def test_the_native_engine_on_cuda_reads_no_given_thoughts(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(generator)
    assert not isinstance(make_engine("native, graph", model), RereadingEngine)
    # What is chosen for a model on a GPU that has all kernels, on a machine without one.
    monkeypatch.setattr("latent_ext.engine.choose.has_kernel", lambda op, kind: True)
    monkeypatch.setattr(type(model), "device", property(lambda model: torch.device("cuda")))
    _, choice = choose_engine(model, samplers=[Sampler.parse("dropout:0.2")], replay=True)
    assert choice.name == "modules"
    assert "engine 'native' on a CUDA device reads no given thoughts" in choice.why
    with pytest.raises(RuntimeError, match=r"engine: 'native' cannot .* reads no given thoughts"):
        choose_engine(model, "native", replay=True)
