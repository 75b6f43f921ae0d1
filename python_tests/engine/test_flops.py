"""Counted operations are those that PyTorch's own counter sees in the engines."""

from __future__ import annotations

import pytest
import torch
from random_models import BODIES, HEADS, MAX_TOKENS, QUESTIONS
from torch.utils.flop_counter import FlopCounterMode

from latent_ext import solve
from latent_ext.engine.base import Beam
from latent_ext.engine.flops import PHASES, BodyShape, Cost, cost_of, expand, why_not_counted
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.soft_thinking import SoftThinking

_QUESTION = QUESTIONS[0]


def _made(body: str, seed: int = 0, **changes: object):  # type: ignore[no-untyped-def]
    make_model, make_reward = BODIES[body]
    generator = torch.Generator().manual_seed(seed)
    model, reward = make_model(generator, **changes), make_reward(generator)
    for module in (model.hf, reward.module.body):
        module.config._attn_implementation = "eager"  # matrix products that the counter sees
    return model, reward


def _counted(model: LatentModel, **settings: object):  # type: ignore[no-untyped-def]
    """Results, operations by kind of matrix product, and those of the rotary tables, which are not counted."""
    with FlopCounterMode(display=False) as counter:
        results = solve(model, _QUESTION, max_answer_tokens=MAX_TOKENS, decode="all", **settings)
    counts = counter.get_flop_counts()
    rotary = sum(
        sum(by_op.values()) for name, by_op in counts.items() if name.split(".")[-1].endswith("rotary_emb")
    )
    return results, {str(op): value for op, value in counts["Global"].items()}, rotary


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
def test_generator_costs_what_the_reference_engine_runs(body: str, scope: str) -> None:
    model, _ = _made(body)
    results, counts, rotary = _counted(
        model, n=3, sampler="dropout:0.3", scope=scope, engine="reference", select="majority"
    )
    length = len(model.encode(_QUESTION))
    # Hugging Face multiplies the masked pairs of a prompt as well.
    read, times = (length - 1, 1) if scope == "latent" else (length, 3)
    masked = times * BodyShape.of(model.body, model.blocks).pair * (read * (read - 1) // 2)
    assert cost_of(model, None, results).flops + masked == sum(counts.values()) - rotary


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sampler", ["noise:0.4", "dropout:0.3", "none"])
@pytest.mark.parametrize("body", BODIES)
def test_linears_cost_what_the_modules_engine_runs(
    body: str, sampler: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reward = _made(body, head=head)
    results, counts, _ = _counted(model, n=3, sampler=sampler, engine="modules", reward=reward)
    linears = sum(value for op, value in counts.items() if op in ("aten.mm", "aten.addmm"))
    monkeypatch.setattr(BodyShape, "read", lambda self, new, seen: new * self.linear)
    cost = cost_of(model, reward, results)
    # The LM head and the LatentRM's scalar head are fused into ops of our own.
    scalar = 3 * model.family.latent_length * 2 * len(reward.head_weight)
    assert cost.flops - cost.phases["lm_head"] - scalar == linears


@pytest.mark.parametrize("lookahead", [0, 2])
def test_beam_costs_what_the_modules_engine_runs(monkeypatch: pytest.MonkeyPatch, lookahead: int) -> None:
    model, reward = _made("gpt2")
    results, counts, _ = _counted(
        model, select="beam", beams=2, candidates=3, lookahead=lookahead, sampler="noise:0.4", engine="modules",
        reward=reward,
    )  # fmt: skip
    monkeypatch.setattr(BodyShape, "read", lambda self, new, seen: new * self.linear)
    cost = cost_of(model, reward, results)
    # Two are kept, with three candidates each: six trajectories form every thought.
    steps = model.family.latent_length
    assert cost.thoughts == 6 * sum(1 + min(lookahead, steps - 1 - t) for t in range(steps))
    scalar = cost.thoughts * 2 * len(reward.head_weight)
    linears = sum(value for op, value in counts.items() if op in ("aten.mm", "aten.addmm"))
    assert cost.flops - cost.phases["lm_head"] - scalar == linears


def test_reward_costs_what_one_reading_of_prompt_and_thoughts_runs() -> None:
    model, reward = _made("gpt2")
    results, counts, _ = _counted(model, n=1, sampler="dropout:0.3", engine="reference", reward=reward)
    length, steps = len(model.encode(_QUESTION)), model.family.latent_length
    read = length + steps
    masked = BodyShape.of(model.body, model.blocks).pair * ((length - 1) * (length - 2) // 2)
    masked += BodyShape.of(reward.module.body, reward.blocks).pair * (read * (read - 1) // 2)
    cost = cost_of(model, reward, results)
    assert cost.reward_positions == read
    assert cost.flops + masked == sum(counts.values())


def test_one_reading_of_a_prompt_costs_as_much_as_its_positions_one_by_one() -> None:
    model, _ = _made("llama")
    shape = BodyShape.of(model.body, model.blocks)
    assert shape.read(7, 5) == sum(shape.read(1, seen) for seen in range(5, 12))


def test_counts_are_those_of_the_results() -> None:
    model, reward = _made("gpt2")
    results = solve(
        model,
        list(QUESTIONS),
        n=4,
        sampler="noise:0.4",
        reward=reward,
        decode="all",
        max_answer_tokens=MAX_TOKENS,
    )
    cost = cost_of(model, reward, results)
    listed = [one for result in results for one in result.trajectories]
    assert cost.prompt_tokens == sum(len(model.encode(question)) for question in QUESTIONS)
    assert cost.thoughts == sum(one.steps for one in listed)
    assert cost.answer_tokens == sum(len(one.tokens) + one.finished for one in listed)
    assert cost.reward_positions == cost.prompt_tokens + cost.thoughts
    assert cost == sum((cost_of(model, reward, result) for result in results), start=Cost())


def test_only_decoded_answers_cost() -> None:
    model, reward = _made("gpt2")
    settings = {"n": 4, "sampler": "noise:0.4", "reward": reward, "max_answer_tokens": MAX_TOKENS}
    every, winner = (
        cost_of(model, reward, solve(model, _QUESTION, decode=decode, **settings))
        for decode in ("all", "needed")
    )
    assert winner.answer_tokens < every.answer_tokens
    assert winner.phases["latent"] == every.phases["latent"]
    assert (
        winner.phases["answer"] + winner.phases["lm_head"] < every.phases["answer"] + every.phases["lm_head"]
    )


def test_thoughts_without_randomness_cost_once() -> None:
    model, _ = _made("gpt2")
    settings = {"sampler": "none", "temperature": 1.0, "max_answer_tokens": MAX_TOKENS}
    one, many = (cost_of(model, None, solve(model, _QUESTION, n=n, **settings)) for n in (1, 5))
    assert (many.thoughts, many.phases["latent"]) == (one.thoughts, one.phases["latent"])
    assert many.phases["answer"] > one.phases["answer"]


@pytest.mark.parametrize("sampler", ["noise:0.4", "dropout:0.3", "none"])
@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
def test_expansion_before_a_run_equals_the_count_after_it(sampler: str, scope: str) -> None:
    model, reward = _made("gpt2")
    results = solve(
        model, _QUESTION, n=3, sampler=sampler, scope=scope, reward=reward, decode="all", max_answer_tokens=1,
        engine="modules",
    )  # fmt: skip
    before = expand(
        model, reward, prompt_tokens=len(model.encode(_QUESTION)), answer_tokens=1, n=3, sampler=sampler, scope=scope,
        engine="modules",
    )  # fmt: skip
    assert before == cost_of(model, reward, results)


def test_expansion_of_a_beam_decodes_what_it_is_told_to() -> None:
    model, reward = _made("gpt2")
    settings = {"prompt_tokens": 9, "answer_tokens": 4, "sampler": "noise:0.4", "beam": Beam(4, 4)}
    assert expand(model, reward, decode="all", **settings).answer_tokens == 16
    assert expand(model, reward, decode="one", **settings).answer_tokens == 4


@pytest.mark.parametrize("bad", [{"prompt_tokens": 0}, {"answer_tokens": -1}, {"n": 1.5}, {"decode": "some"}])
def test_expansion_names_the_bad_argument(bad: dict[str, object]) -> None:
    model, _ = _made("gpt2")
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: got"):
        expand(model, **({"prompt_tokens": 9, "answer_tokens": 4} | bad))  # type: ignore[arg-type]


def test_every_phase_is_named_and_adds_up() -> None:
    model, reward = _made("gpt2")
    cost = expand(model, reward, prompt_tokens=9, answer_tokens=4, n=2)
    assert set(cost.phases) == set(PHASES)
    assert all(cost.phases.values())
    assert cost.to_dict()["flops"] == sum(cost.phases.values())


def test_thoughts_of_a_rule_are_refused_with_the_reason() -> None:
    model, _ = _made("gpt2")
    model.family = SoftThinking(latent_length=2)
    assert why_not_counted(model)
    with pytest.raises(ValueError, match="cannot be counted: its thoughts are formed by a rule"):
        expand(model, prompt_tokens=3, answer_tokens=2)
