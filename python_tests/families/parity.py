"""An engine's thoughts and answers against a plain loop, and engines with dropout against the reference."""

from __future__ import annotations

import torch
from plain_loops import Plain, fixed
from random_models import answer_all, assert_same_answers, keys_of, make_engine, sample
from torch import Tensor

from latent_ext.engine.base import LatentRun
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

ENGINES = ("native", "native, graph", "modules", "reference")
QUESTIONS = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in total does it take?",
    " Anna has 12 tickets. ",
    "7",
)
STEPS, TOKENS, COUNT = 3, 6, 2


def assert_equals_plain_loop(
    model: LatentModel, plain: Plain, prompts: list[list[int]], engine: str, sigma: float
) -> None:
    """Prompt ids, thoughts and answers of every trajectory: a fixed number of thoughts, no dropout."""
    encoded = [model.encode(question) for question in QUESTIONS]
    assert [ids.tolist() for ids in encoded] == prompts
    runner = make_engine(engine, model, TOKENS)
    sampler = Sampler.parse(f"noise:{sigma}" if sigma else "none")
    run = sample(runner, encoded, sampler, COUNT)
    answers = answer_all(runner, run, max_tokens=TOKENS)
    keys = keys_of(encoded, COUNT)
    for row in range(run.rows):
        b, n = divmod(row, COUNT)
        key = int(keys[b, n])
        thoughts, tokens, ended = fixed(plain, encoded[b], STEPS, TOKENS, key, sigma)
        assert_close(run.thoughts[row], thoughts.float(), "latent_phase")
        assert (answers.tokens[row], bool(answers.finished[row])) == (tokens, ended)


def assert_agrees_with_reference(model: LatentModel, engine: str, sampler: Sampler) -> LatentRun:
    """Thoughts, their numbers and answers of a fast engine and of the reference, same random numbers."""
    prompts = [model.encode(question) for question in QUESTIONS]
    fast, slow = make_engine(engine, model, TOKENS), make_engine("reference", model, TOKENS)
    run, expected = sample(fast, prompts, sampler, COUNT), sample(slow, prompts, sampler, COUNT)
    assert_close(run.thoughts, expected.thoughts, "latent_phase")
    assert (run.counts is None) is (expected.counts is None)
    answers, slow_answers = (
        answer_all(fast, run, max_tokens=TOKENS),
        answer_all(slow, expected, max_tokens=TOKENS),
    )
    if run.counts is None:
        assert_same_answers(model, expected, answers, slow_answers)
    else:
        assert torch.equal(run.counts, expected.counts)
        assert answers.tokens == slow_answers.tokens
    return run


def ids_of(words, text: str, *more: int, special: bool = True) -> list[int]:  # type: ignore[no-untyped-def]
    return [*words(text, add_special_tokens=special)["input_ids"], *more]


def identity(hidden: Tensor) -> tuple[Tensor, None]:
    return hidden, None
