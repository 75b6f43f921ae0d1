"""engine="native": what a trajectory computes is a function of its question, key and model, bit for bit."""

from __future__ import annotations

import pytest
import torch
from random_models import BODIES, MAX_TOKENS, QUESTIONS, SEED, answer_all, keys_of, sample
from torch import Tensor

import latent_ext
from latent_ext import _native
from latent_ext.engine.base import Answers, LatentRun
from latent_ext.engine.native import NativeEngine
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import WEIGHTS
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler
from latent_ext.search.result import Trajectory

SAMPLERS = (
    "none",
    "dropout:0.2",
    "noise:0.4:relative",
    "dropout:0.3:trajectory+noise:0.6",
    "svp:0.6+dropout:0.1",
)
SCOPES = ("latent", "prompt+latent")
formats_and_bodies = [
    pytest.mark.parametrize("weights", WEIGHTS),
    pytest.mark.parametrize("body", BODIES),
]


def on_every_format_and_body(test):  # type: ignore[no-untyped-def]
    for mark in formats_and_bodies:
        test = mark(test)
    return test


def solved(
    model: LatentModel, reward: LatentRM, sampler: Sampler, weights: str, question: str, **how: object
) -> list[list[Trajectory]]:
    """The first 16 trajectories of every occurrence of a question."""
    asked = how.pop("questions", [question])
    results = latent_ext.solve(
        model, asked, n=how.pop("n", 16), sampler=sampler, reward=reward, select="weighted_vote", engine="native",
        weights=weights, seed=SEED, temperature=1.0, top_p=0.95, max_answer_tokens=20, return_thoughts=True, **how,
    )  # fmt: skip
    return [result.trajectories[:16] for result in results if result.question == question]


def assert_identical(actual: list[Trajectory], expected: list[Trajectory]) -> None:
    """Thoughts, scores, answers and their log probabilities, to the last bit."""
    for got, wanted in zip(actual, expected, strict=True):
        assert torch.equal(got.thoughts, wanted.thoughts)
        assert got.step_scores == wanted.step_scores
        assert (got.tokens, got.logprob, got.finished) == (wanted.tokens, wanted.logprob, wanted.finished)


ORGANISATIONS = {
    "more trajectories": {"n": 64},
    "one row at a time": {"max_rows": 1},
    "seven rows at a time": {"max_rows": 7},
    "little memory": {"memory_bytes": 60_000},
    "batch mates": {"questions": list(QUESTIONS)},
    "the order of questions": {"questions": list(reversed(QUESTIONS))},
    "duplicated questions": {"questions": [QUESTIONS[1], QUESTIONS[0], QUESTIONS[1]]},
    "mates, chunks and more trajectories": {"questions": list(QUESTIONS), "max_rows": 20, "n": 50},
    "more rows than pass together": {"questions": list(QUESTIONS), "n": 100},
}


@pytest.mark.parametrize("how", ORGANISATIONS, ids=str)
@pytest.mark.parametrize(
    ("text", "scope"), [(SAMPLERS[2], SCOPES[0]), (SAMPLERS[3], SCOPES[1]), (SAMPLERS[4], SCOPES[0])]
)
@on_every_format_and_body
def test_nothing_about_the_organisation_of_a_run_changes_a_bit(
    generator: torch.Generator, body: str, weights: str, text: str, scope: str, how: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    (expected,) = solved(model, reward, sampler, weights, QUESTIONS[1])
    for actual in solved(model, reward, sampler, weights, QUESTIONS[1], **ORGANISATIONS[how]):
        assert_identical(actual, expected)


@pytest.mark.parametrize("trajectories", [1, 3, 40])
@pytest.mark.parametrize("text", SAMPLERS)
@on_every_format_and_body
def test_the_number_of_threads_changes_no_bit(
    generator: torch.Generator, restored_threads: None, body: str, weights: str, text: str, trajectories: int
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runs.append(
            solved(
                model,
                reward,
                Sampler.parse(text),
                weights,
                QUESTIONS[1],
                n=trajectories,
                questions=list(QUESTIONS),
            )
        )
    for run in runs[1:]:
        assert_identical(run[0], runs[0][0])


def both(
    model: LatentModel, reward: LatentRM, sampler: Sampler, keys: Tensor, weights: str = "fp32"
) -> tuple[LatentRun, Answers]:
    prompts = [model.encode(question) for question in QUESTIONS]
    engine = NativeEngine(model, MAX_TOKENS, weights)
    run = sample(engine, prompts, sampler, keys=keys, reward=reward)
    return run, answer_all(engine, run)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_trajectories_are_the_same_when_their_siblings_are_not_there(
    generator: torch.Generator, body: str, text: str, scope: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    keys = keys_of([model.encode(question) for question in QUESTIONS], 6)
    kept = [4, 1]
    full, answers = both(model, reward, sampler, keys)
    few, fewer = both(model, reward, sampler, keys[:, kept].contiguous())
    rows = [6 * b + n for b in range(len(QUESTIONS)) for n in kept]
    assert torch.equal(few.thoughts, full.thoughts[rows])
    assert torch.equal(few.scores, full.scores[rows])
    assert fewer.tokens == [answers.tokens[row] for row in rows]
    assert torch.equal(fewer.logprobs, answers.logprobs[rows])


@pytest.mark.skipif(
    not {"avx2", "avx512"} <= set(_native.supported_capabilities()), reason="needs levels avx2 and avx512"
)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_avx2_and_avx512_give_the_same_bits_in_fp32(
    generator: torch.Generator, restored_capability: None, body: str, text: str, scope: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator, head="policy"), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    keys = keys_of([model.encode(question) for question in QUESTIONS], 5)
    results = []
    for level in ("avx2", "avx512"):
        _native.set_cpu_capability(level)
        results.append(both(model, reward, sampler, keys))
    (narrow, narrow_answers), (wide, wide_answers) = results
    assert torch.equal(narrow.thoughts, wide.thoughts)
    assert torch.equal(narrow.scores, wide.scores)
    assert narrow_answers.tokens == wide_answers.tokens
    assert torch.equal(narrow_answers.logprobs, wide_answers.logprobs)
