"""Clean replay: what decides the answer is what the thoughts say."""

from __future__ import annotations

import pytest
import torch
from random_models import QUESTIONS, random_model

import latent_ext
from latent_ext.engine.base import LatentRequest
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.engine.replay import reread
from latent_ext.ops import question_key, trajectory_keys
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

HOW = {"n": 3, "max_answer_tokens": 5, "select": "majority", "return_thoughts": True}


def sampled(engine: ReferenceEngine, sampler: Sampler):  # type: ignore[no-untyped-def]
    prompts = [engine.model.encode(text) for text in QUESTIONS]
    keys = trajectory_keys(torch.tensor([question_key(prompt) for prompt in prompts]), 3)
    return engine.sample(LatentRequest(prompts, keys, sampler, 7), None)


def caches(run):  # type: ignore[no-untyped-def]
    return [layer.keys for state in run.state for layer in state.cache.layers]


def test_noise_alone_leaves_nothing_to_clean(generator: torch.Generator) -> None:
    engine = ReferenceEngine(random_model(generator), 5)
    run = sampled(engine, Sampler.parse("noise:0.5:relative"))
    for again, first in zip(caches(reread(engine, run)), caches(run), strict=True):
        assert_close(again, first, "latent_phase")


def test_dropout_leaves_the_cache_and_the_thoughts_stay(generator: torch.Generator) -> None:
    engine = ReferenceEngine(random_model(generator), 5)
    run = sampled(engine, Sampler.parse("dropout:0.4"))
    clean = reread(engine, run)
    assert torch.equal(clean.thoughts, run.thoughts)
    # Masks reach all layers but the first, whose keys are of the thoughts themselves.
    assert not torch.allclose(caches(clean)[1], caches(run)[1])
    assert_close(caches(clean)[0], caches(run)[0], "latent_phase")


def test_solve_replays_under_dropout_on_the_reference_engine(generator: torch.Generator) -> None:
    model = random_model(generator)
    clean, hidden = (
        latent_ext.solve(model, list(QUESTIONS), sampler="dropout:0.4", replay=replay, engine=engine, **HOW)
        for replay, engine in (("clean", "auto"), ("none", "reference"))
    )
    assert clean[0].settings["replay"] == "clean"
    assert clean[0].settings["engine"] == "reference"
    pairs = [
        (a, b)
        for x, y in zip(clean, hidden, strict=True)
        for a, b in zip(x.trajectories, y.trajectories, strict=True)
    ]
    assert all(torch.equal(a.thoughts, b.thoughts) for a, b in pairs)
    assert any(a.logprob != b.logprob for a, b in pairs)


def test_without_dropout_replay_keeps_the_fast_engine(generator: torch.Generator) -> None:
    model = random_model(generator)
    result = latent_ext.solve(model, QUESTIONS[0], sampler="noise:0.5", replay="clean", **HOW)[0]
    assert result.settings["engine"] == "native"


def test_what_cannot_replay_is_refused(generator: torch.Generator) -> None:
    model = random_model(generator)
    with pytest.raises(ValueError, match="replay: got 'all'; allowed are none, clean"):
        latent_ext.solve(model, QUESTIONS[0], replay="all", **HOW)
    with pytest.raises(
        RuntimeError, match=r"replay: 'clean' under dropout or noise on W_V needs .* reference; got native"
    ):
        latent_ext.solve(model, QUESTIONS[0], replay="clean", engine="native", sampler="dropout:0.2", **HOW)
