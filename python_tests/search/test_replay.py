"""Clean replay in `solve`: what decides the answer is what the thoughts say, on every engine that reads given thoughts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from random_models import BODIES, QUESTIONS, RandomFamily, random_model, random_reward, sample
from torch import Tensor, nn

import latent_ext
from latent_ext.engine import choose_engine
from latent_ext.engine.replay import RereadingEngine
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.semantics import Semantics
from latent_ext.models.thought_rule import Draw, NextThought
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler
from latent_ext.search import Result, Trajectory

HOW = {"n": 3, "max_answer_tokens": 5, "select": "majority", "return_thoughts": True}


def trajectories(results: list[Result]) -> list[Trajectory]:
    return [trajectory for result in results for trajectory in result.trajectories]


def assert_trajectories_agree(got: list[Trajectory], wanted: list[Trajectory]) -> None:
    """Keys, thoughts, scores and, where rounding has changed no token, log probabilities."""
    assert [one.key for one in got] == [one.key for one in wanted]
    thoughts = (torch.stack([one.thoughts for one in part]) for part in (got, wanted))  # type: ignore[misc]
    assert_close(*thoughts, "latent_phase")
    pairs = [(a, b) for a, b in zip(got, wanted, strict=True) if a.tokens == b.tokens]
    assert len(pairs) >= len(got) // 2
    scored = [(a.score, b.score) for a, b in pairs if a.score is not None]
    assert_close(*torch.tensor(scored).reshape(-1, 2).unbind(1), "step_score")
    assert_close(*torch.tensor([(a.logprob, b.logprob) for a, b in pairs]).unbind(1), "answer_logprob")


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("body", BODIES)
def test_auto_takes_the_native_engine_and_the_thoughts_stay(
    generator: torch.Generator, body: str, scope: str
) -> None:
    model = BODIES[body][0](generator)
    clean, masked = (
        latent_ext.solve(model, list(QUESTIONS), sampler="dropout:0.4", scope=scope, replay=replay, **HOW)
        for replay in ("clean", "none")
    )
    assert clean[0].settings["replay"] == "clean"
    assert clean[0].settings["engine"] == "native"
    pairs = list(zip(trajectories(clean), trajectories(masked), strict=True))
    assert all(torch.equal(a.thoughts, b.thoughts) for a, b in pairs)
    assert all(a.logprob != b.logprob for a, b in pairs)


@pytest.mark.parametrize("sampler", ["dropout:0.3", "svp:0.5", "mix(none|dropout:0.3|noise:0.4|svp:0.5)"])
@pytest.mark.parametrize("engine", ["native", "modules"])
@pytest.mark.parametrize("body", BODIES)
def test_engines_agree_with_the_reference(
    generator: torch.Generator, body: str, engine: str, sampler: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, how = make_model(generator), {**HOW, "n": 6, "reward": make_reward(generator)}
    fast, slow = (
        latent_ext.solve(model, list(QUESTIONS), sampler=sampler, replay="clean", engine=name, **how)
        for name in (engine, "reference")
    )
    assert_trajectories_agree(trajectories(fast), trajectories(slow))


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("engine", ["native", "modules"])
def test_what_pruning_has_left_is_read_again(generator: torch.Generator, engine: str, scope: str) -> None:
    model, reward = random_model(generator), random_reward(generator)

    def solved(name: str, replay: str) -> list[Trajectory]:
        results = latent_ext.solve(
            model, list(QUESTIONS), select="beam", beams=2, candidates=2, sampler="dropout:0.4", scope=scope,
            reward=reward, replay=replay, engine=name, decode="all", max_answer_tokens=5, return_thoughts=True,
        )  # fmt: skip
        return trajectories(results)

    clean = solved(engine, "clean")
    assert_trajectories_agree(clean, solved("reference", "clean"))
    assert all(a.logprob != b.logprob for a, b in zip(clean, solved(engine, "none"), strict=True))


@pytest.mark.parametrize("sampler", ["dropout:0.3", "mix(none|dropout:0.3|noise:0.4)"])
@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
def test_however_the_run_is_cut_the_native_engine_reads_the_same_bits(
    generator: torch.Generator, sampler: str, scope: str
) -> None:
    model = random_model(generator)
    whole, cut = (
        latent_ext.solve(
            model, list(QUESTIONS), sampler=sampler, scope=scope, replay="clean", max_rows=rows, **HOW
        )
        for rows in (None, 2)
    )
    assert [one.to_dict() for one in trajectories(cut)] == [one.to_dict() for one in trajectories(whole)]


@pytest.mark.parametrize("sampler", ["dropout:0.3", "mix(none|dropout:0.3|noise:0.4)"])
@pytest.mark.parametrize("engine", ["native", "modules"])
def test_the_winner_alone_is_read_again_where_it_alone_is_decoded(
    generator: torch.Generator, engine: str, sampler: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    how = {**HOW, "n": 6, "select": "best_of_n", "sampler": sampler, "reward": reward, "engine": engine}
    won, all_decoded = (
        latent_ext.solve(model, list(QUESTIONS), replay="clean", decode=decode, **how)
        for decode in ("needed", "all")
    )
    assert [result.chosen for result in won] == [result.chosen for result in all_decoded]
    got, wanted = ([result.best for result in results] for results in (won, all_decoded))
    assert [one.tokens for one in got] == [one.tokens for one in wanted]
    logprobs = (torch.tensor([one.logprob for one in part]) for part in (got, wanted))
    assert_close(*logprobs, "answer_logprob")


def test_an_adaptive_budget_reads_again_what_each_round_has_drawn(generator: torch.Generator) -> None:
    model, how = random_model(generator), {**HOW, "select": "adaptive", "n": 12}
    found = [
        latent_ext.solve(model, list(QUESTIONS), sampler="dropout:0.4", replay="clean", engine=name, **how)
        for name in ("native", "reference")
    ]
    drawn_by_both = [
        pair
        for a, b in zip(*found, strict=True)
        for pair in zip(a.trajectories, b.trajectories, strict=False)
    ]
    assert_trajectories_agree([a for a, _ in drawn_by_both], [b for _, b in drawn_by_both])


def test_of_a_mixture_those_without_dropout_are_not_read_again(generator: torch.Generator) -> None:
    model, mixture = random_model(generator), "mix(none|dropout:0.4|noise:0.4)"
    clean, masked = (
        latent_ext.solve(model, list(QUESTIONS), sampler=mixture, replay=replay, **{**HOW, "n": 6})
        for replay in ("clean", "none")
    )
    for a, b in zip(trajectories(clean), trajectories(masked), strict=True):
        assert (a.logprob == b.logprob) == (a.index % 3 != 1)


def test_without_dropout_replay_changes_nothing(generator: torch.Generator) -> None:
    model = random_model(generator)
    found = [
        latent_ext.solve(model, QUESTIONS[0], sampler="noise:0.5", replay=replay, **HOW)[0]
        for replay in ("clean", "none")
    ]
    assert found[0].settings["engine"] == "native"
    assert [one.to_dict() for one in found[0].trajectories] == [
        one.to_dict() for one in found[1].trajectories
    ]
    assert found[0].cost == found[1].cost


@dataclass(frozen=True)
class _Same:
    """The hidden state itself, formed by a rule."""

    randomness: tuple[str, ...] = ("dropout",)

    def next_thought(self, hidden: Tensor, memory: Tensor | None, draw: Draw) -> NextThought:
        return NextThought(hidden)


@dataclass(frozen=True)
class _RuleFamily(RandomFamily):
    def thought_head(self, model: nn.Module) -> _Same:  # type: ignore[override]
        return _Same()


@dataclass(frozen=True)
class _OtherFamily(RandomFamily):
    semantics: Semantics = field(default_factory=Semantics)


def _of_family(model: LatentModel, family: RandomFamily) -> LatentModel:
    model.family = family
    return model


@pytest.mark.parametrize(
    ("family", "why"),
    [
        (_RuleFamily(), "needs thoughts that a head forms; got _Same"),
        (_OtherFamily(semantics=Semantics(stop="argmax")), "needs stop='fixed'; got 'argmax'"),
        (_OtherFamily(semantics=Semantics(pads="visible")), "needs pads='masked'; got 'visible'"),
        (
            _OtherFamily(semantics=Semantics(dropout_in_answer=True)),
            "needs dropout_in_answer=False; got True",
        ),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_families_that_no_engine_reads_again_are_refused(
    generator: torch.Generator, family: RandomFamily, why: str, engine: str
) -> None:
    model = _of_family(random_model(generator), family)
    with pytest.raises(RuntimeError, match=f"^replay: 'clean' {why}"):
        latent_ext.solve(model, "7", sampler="dropout:0.2", replay="clean", engine=engine, **HOW)


@pytest.mark.parametrize("engine", ["modules", "reference"])
def test_an_engine_that_is_given_a_run_of_such_a_family_refuses_it(
    generator: torch.Generator, engine: str
) -> None:
    model = _of_family(random_model(generator), _RuleFamily())
    prompts = [model.encode(question) for question in QUESTIONS]
    runner, _ = choose_engine(model, engine)
    run = sample(runner, prompts, Sampler.parse("dropout:0.2"))
    assert isinstance(runner, RereadingEngine)
    with pytest.raises(RuntimeError, match="needs thoughts that a head forms; got _Same"):
        runner.reread(run, torch.arange(run.rows))


def test_a_replay_that_there_is_not_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="replay: got 'all'; allowed are none, clean"):
        latent_ext.solve(random_model(generator), QUESTIONS[0], replay="all", **HOW)
