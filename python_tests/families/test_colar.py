"""CoLaR on Llama: rows with numbers of thoughts of their own, LatentTTS's mean head and the authors' Gaussian one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parity import QUESTIONS, TOKENS, assert_agrees_with_reference, ids_of
from plain_loops import Plain, reentering, stopping
from published_files import (
    EOS,
    HIDDEN,
    RANK,
    adapters,
    add_adapters,
    policy,
    stock,
    tokenizer,
    write_latenttts,
    write_original_colar,
)
from random_models import answer_all, keys_of, make_engine, sample

import latent_ext
from latent_ext.engine.base import Beam, LatentRequest
from latent_ext.models.colar import Colar
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.semantics import Semantics
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards import LatentRM
from latent_ext.rewards.latent_rm import LatentRMModule
from latent_ext.samplers import Sampler

ENGINES = ("modules", "reference")
MOST, COUNT, STD = 5, 4, 0.12


class Published:
    """One checkpoint on disk and the stock modules it was written from."""

    def __init__(self, layout: str, parent: Path, generator: torch.Generator) -> None:
        self.directory, self.words = parent / "model", tokenizer("llama")
        self.separator, eos = self.words.convert_tokens_to_ids("###"), self.words.convert_tokens_to_ids(EOS)
        hf = stock("llama", len(self.words), generator, tied=False)
        with torch.no_grad():
            # Rows stop, and answers end, often enough to be seen.
            hf.lm_head.weight[self.separator] *= 6.0
            hf.lm_head.weight[eos] *= 6.0
        head = policy(HIDDEN["llama"], generator, gaussian=layout == "original")
        merged = copy.deepcopy(hf).double()
        if layout == "latenttts":
            extra = {f"lt_head.{name}": value for name, value in head.state_dict().items()}
            sizes = {"latent_intermediate_size": HIDDEN["llama"] + 3, "latent_embedding_std": STD}
            write_latenttts(self.directory, hf, "ColarLlama", extra, self.words, **sizes)
            self.base = None
        else:
            pairs = adapters(hf, ("q_proj", "v_proj"), generator)
            add_adapters(merged, pairs, 32 / RANK)
            self.base = parent / "base"
            write_original_colar(self.directory, self.base, hf, pairs, head, self.words)
        wide = copy.deepcopy(head).double()

        def form(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            trunk = wide.fc(hidden)
            return wide.mean(trunk), wide.log_std(trunk) if layout == "original" else None

        self.plain = Plain(merged, form, self.separator, eos, scale=STD)

    def load(self, **switches: object) -> LatentModel:
        return latent_ext.load(self.directory, base=self.base, latent_length=MOST, switches=switches)


@pytest.fixture
def published(generator: torch.Generator, tmp_path: Path) -> Callable[..., Published]:
    return lambda layout: Published(layout, tmp_path, generator)


def assert_equals_plain_loop(
    files: Published, model: LatentModel, engine: str, sampler: Sampler, **how: object
) -> None:
    prompts = [model.encode(question) for question in QUESTIONS]
    runner = make_engine(engine, model, TOKENS)
    run = sample(runner, prompts, sampler, COUNT)
    answers = answer_all(runner, run, max_tokens=TOKENS)
    keys = keys_of(prompts, COUNT)
    assert run.counts is not None
    for row in range(run.rows):
        b, n = divmod(row, COUNT)
        thoughts, tokens, ended = stopping(
            files.plain, prompts[b], MOST, TOKENS, key=int(keys[b, n]), sigma=sampler.sigma, **how
        )  # type: ignore[arg-type]
        count = int(run.counts[row])
        assert count == len(thoughts)
        if count:
            assert_close(run.thoughts[row, :count], thoughts.float(), "latent_phase")
        assert not run.thoughts[row, count:].any()
        assert (answers.tokens[row], bool(answers.finished[row])) == (tokens, ended)


@pytest.mark.parametrize(("layout", "speed"), [("latenttts", 2), ("original", 5)])
def test_the_prompt_ends_with_the_separator_and_has_no_begin_of_sequence(
    published: Callable[..., Published], layout: str, speed: int
) -> None:
    files = published(layout)
    text = f"Question: {QUESTIONS[0]} Let's think step by step:(Thinking speed: {speed})###"
    wanted = ids_of(files.words, text, special=False)
    assert files.load().encode(QUESTIONS[0]).tolist() == wanted
    assert wanted[-1] == files.separator
    assert files.load(speed=1).encode("7").tolist() != files.load().encode("7").tolist()


@pytest.mark.parametrize("text", ["none", "noise:0.05"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_head_stops_by_argmax_as_a_plain_loop_does(
    published: Callable[..., Published], engine: str, text: str
) -> None:
    files = published("latenttts")
    assert_equals_plain_loop(files, files.load(), engine, Sampler.parse(text), least=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_gaussian_head_and_its_drawn_stop_equal_a_plain_loop(
    published: Callable[..., Published], engine: str, temperature: float
) -> None:
    files = published("original")
    sampler = Sampler.parse(f"head:{temperature}")
    assert_equals_plain_loop(
        files, files.load(), engine, sampler, least=1, learned=True, stop_temperature=1.0
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_sampler_the_original_takes_the_mean_and_the_likeliest_token(
    published: Callable[..., Published], engine: str
) -> None:
    files = published("original")
    assert_equals_plain_loop(files, files.load(), engine, Sampler(), least=1)


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_engines_agree_under_dropout(
    published: Callable[..., Published], scope: str, everywhere: bool
) -> None:
    model = published("latenttts").load(dropout_in_answer=everywhere)
    sampler = Sampler.parse("dropout:0.1+noise:0.02", scope=scope)  # type: ignore[arg-type]
    assert_agrees_with_reference(model, "modules", sampler)


def test_dropout_in_the_answer_changes_answers_and_no_thought(published: Callable[..., Published]) -> None:
    files = published("latenttts")
    logprobs, thoughts = [], []
    for everywhere in (False, True):
        model = files.load(dropout_in_answer=everywhere)
        runner = make_engine("modules", model, TOKENS)
        run = sample(runner, [model.encode("7")], Sampler.parse("dropout:0.3"), COUNT)
        thoughts.append(run.thoughts)
        logprobs.append(answer_all(runner, run, max_tokens=TOKENS).logprobs)
    assert torch.equal(*thoughts)
    assert not torch.equal(*logprobs)


@pytest.mark.parametrize("question", [*QUESTIONS, "one ### two"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_published_cap_reenters_latent_mode_as_a_plain_loop_does(
    published: Callable[..., Published], engine: str, question: str
) -> None:
    files = published("latenttts")
    model = files.load(cap="reenter")
    prompt = model.encode(question)
    runner = make_engine(engine, model, 4 * MOST)
    run = sample(runner, [prompt], Sampler(), 2)
    answers = answer_all(runner, run, max_tokens=4 * MOST)
    thoughts, tokens, ended = reentering(files.plain, prompt, MOST, 4 * MOST)
    assert run.counts is not None
    assert run.counts.tolist() == [len(thoughts)] * 2
    if len(thoughts):
        assert_close(run.thoughts[0, : len(thoughts)], thoughts.float(), "latent_phase")
    assert answers.tokens == [tokens] * 2
    assert answers.finished.tolist() == [ended] * 2


def test_a_capped_row_gets_the_separator_unless_the_published_bug_is_asked_for(
    published: Callable[..., Published],
) -> None:
    files = published("latenttts")
    with torch.no_grad():
        files.plain.hf.lm_head.weight[files.separator] = 0.0
    lengths = {}
    for cap in ("separator", "reenter"):
        model = files.load(cap=cap)
        with torch.no_grad():
            # The separator is never the likeliest token: every row thinks up to its cap.
            model.hf.lm_head.weight[files.separator] = 0.0
        runner = make_engine("modules", model, 2 * MOST)
        run = sample(runner, [model.encode("7")], Sampler(), 1)
        assert run.counts is not None
        assert run.counts.tolist() == [MOST]
        tokens, ended = answer_all(runner, run, max_tokens=2 * MOST).tokens[0], False
        prompt = model.encode("7")
        if cap == "separator":
            wanted = stopping(files.plain, prompt, MOST, 2 * MOST, least=0)
        else:
            wanted = reentering(files.plain, prompt, MOST, 2 * MOST)
        _, expected, ended = wanted
        assert tokens == expected
        lengths[cap] = (len(tokens), ended)
    # Of 2 * MOST steps the bug spends all but every (MOST + 1)-th on thoughts.
    assert lengths["reenter"][0] <= 2


def test_rows_of_one_question_stop_at_different_steps(tmp_path: Path) -> None:
    files = Published("original", tmp_path, torch.Generator().manual_seed(0))
    model = files.load()
    run = sample(make_engine("modules", model), [model.encode("7")], Sampler.parse("head"), 16)
    assert run.counts is not None
    assert len(set(run.counts.tolist())) > 1
    assert int(run.counts.min()) >= 1


def test_a_trajectory_is_the_same_whatever_runs_beside_it(published: Callable[..., Published]) -> None:
    model = published("original").load()
    how = {"sampler": "head", "decode": "all", "return_thoughts": True, "max_answer_tokens": TOKENS}
    many = latent_ext.solve(model, list(QUESTIONS), n=8, **how)
    few = latent_ext.solve(model, QUESTIONS[1], n=3, max_rows=2, **how)[0]
    for mine, other in zip(few.trajectories, many[1].trajectories, strict=False):
        assert mine.steps == other.steps
        assert mine.tokens == other.tokens
        assert mine.thoughts is not None
        assert other.thoughts is not None
        assert_close(mine.thoughts, other.thoughts, "latent_phase")


def test_scores_count_a_trajectorys_own_thoughts(
    published: Callable[..., Published], generator: torch.Generator
) -> None:
    files = published("original")
    model = files.load()
    module = LatentRMModule(stock("llama", len(files.words), generator).model)
    reward = LatentRM(module.eval().requires_grad_(False), "random")
    how = {"n": 6, "sampler": "head", "reward": reward, "return_thoughts": True, "max_answer_tokens": 2}
    fast, slow = (latent_ext.solve(model, "7", engine=engine, **how)[0] for engine in ENGINES)
    for mine, other in zip(fast.trajectories, slow.trajectories, strict=True):
        assert mine.step_scores is not None
        assert len(mine.step_scores) == mine.steps == len(mine.thoughts)
        assert_close(torch.tensor(mine.step_scores), torch.tensor(other.step_scores), "step_score")


def test_the_native_engine_says_why_it_is_not_taken(published: Callable[..., Published]) -> None:
    model = published("latenttts").load()
    with pytest.raises(
        RuntimeError, match="'native' cannot run this model on cpu: its rows stop by themselves"
    ):
        latent_ext.solve(model, "7", n=1, engine="native")
    assert latent_ext.solve(model, "7", n=1, sampler="none")[0].settings["engine"] == "modules"


def test_a_beam_over_rows_that_stop_by_themselves_is_refused(published: Callable[..., Published]) -> None:
    model = published("latenttts").load()
    prompts = [model.encode(question) for question in QUESTIONS]
    request = LatentRequest(prompts, keys_of(prompts, 2), Sampler(), 7, Beam(1, 2))
    for name in ENGINES:
        engine = make_engine(name, model)
        with pytest.raises(ValueError, match=r"^beam: .* rows end their thoughts by themselves .* 'colar'"):
            engine.sample(request, engine.read_prompts(prompts, Sampler()))


def test_a_head_without_a_deviation_is_not_drawn_from(published: Callable[..., Published]) -> None:
    with pytest.raises(ValueError, match="sampler: got 'head'; this model has no Gaussian head to draw from"):
        latent_ext.solve(published("latenttts").load(), "7", n=1, sampler="head")


@pytest.mark.parametrize(
    ("marker", "text", "answer"),
    [
        ("last", " Answer: 1,080.###", "1080"),
        ("last", "Answer:3 Answer:4", "4"),
        ("first", "Answer:3.", "3"),
        ("first", "Answer:3 Answer:4", None),
        ("last", "12", None),
    ],
)
def test_the_answer_follows_its_marker(marker: str, text: str, answer: str | None) -> None:
    family = Colar(semantics=Semantics(stop="argmax", marker=marker))  # type: ignore[arg-type]
    assert family.answer(text) == answer
