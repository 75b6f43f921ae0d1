"""engine="native" on CUDA, its Python run on the CPU, where a captured function runs as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from random_models import (
    BODIES,
    HEADS,
    MAX_TOKENS,
    QUESTIONS,
    SEED,
    answer_all,
    keys_of,
    make_engine,
    random_model,
    random_reward,
    sample,
)
from test_engine_agreement import LLAMA_SHAPES, SAMPLERS, SCOPES, STORAGE, assert_engines_agree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latent_ext import ops
from latent_ext.engine.base import Beam, LatentRequest
from latent_ext.engine.cuda import CudaEngine
from latent_ext.engine.cuda_answers import CHECK_EVERY
from latent_ext.engine.cuda_blocks import DTYPES, cuda_blocks
from latent_ext.engine.cuda_capture import Capture
from latent_ext.engine.cuda_latent import LatentInputs, LatentOutputs, LatentSettings
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

# "persistent" stands for the op `latent_rollout`, which has one way of its own on a CPU.
RUNGS = ("graph", "persistent")
# (keep by step, candidates): no branching, 4 x 4, a last step that prunes, more kept than there are.
BEAMS = (((0, 3, 0, 0), 1), ((4, 4, 4, 4), 4), ((2, 0, 1, 1), 3), ((99, 0, 5, 0), 2))


@pytest.mark.parametrize("where", ["residual", "residual+embedding"])
@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_the_graph_rung_agrees_with_reference(
    generator: torch.Generator, body: str, text: str, scope: str, where: str, weights: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope, sites=where)  # type: ignore[arg-type]
    assert_engines_agree(model, reward, sampler, CudaEngine(model, MAX_TOKENS, weights, "graph"))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_the_rungs_of_the_rollout_agree_with_reference(
    generator: torch.Generator, body: str, text: str, scope: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    assert_engines_agree(model, reward, sampler, CudaEngine(model, MAX_TOKENS, "fp32", "persistent"))


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("head", [head for head in HEADS if head != "none"])
@pytest.mark.parametrize("body", BODIES)
def test_a_thought_head_agrees_with_reference(
    generator: torch.Generator, body: str, head: str, rung: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator, head=head), make_reward(generator)
    engine = CudaEngine(model, MAX_TOKENS, "fp32", rung)
    assert_engines_agree(model, reward, Sampler.parse("dropout:0.1+noise:0.4:relative"), engine)


@pytest.mark.parametrize("shape", LLAMA_SHAPES, ids=str)
def test_every_shape_of_llama_agrees_with_reference(generator: torch.Generator, shape: str) -> None:
    make_model, make_reward = BODIES["llama"]
    changes = LLAMA_SHAPES[shape]
    model, reward = make_model(generator, **changes), make_reward(generator, **changes)
    engine = CudaEngine(model, MAX_TOKENS, "fp32", "graph")
    assert_engines_agree(model, reward, Sampler.parse("dropout:0.2"), engine)


def phase(
    engine: CudaEngine, reward: Any, text: str, count: int, scope: str = "latent"
) -> tuple[LatentSettings, LatentInputs]:
    """The latent phase of all questions, ready to be run."""
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    prompts = [engine.model.encode(question) for question in QUESTIONS]
    request = LatentRequest(prompts, keys_of(prompts, count), sampler, SEED)
    cache = engine.read_prompts(prompts, sampler)
    return engine.inputs(request, cache, engine.read_reward_prompts(reward, prompts))


@pytest.mark.parametrize(("keep", "candidates"), BEAMS)
@pytest.mark.parametrize(
    ("text", "scope"), [("noise:0.4:relative", "latent"), ("dropout:0.2", "prompt+latent")]
)
@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("body", BODIES)
def test_beams_of_the_graph_rung_are_those_of_the_rollout(
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    weights: str,
    text: str,
    scope: str,
    keep: tuple[int, ...],
    candidates: int,
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    graph = CudaEngine(model, MAX_TOKENS, weights, "graph")
    settings, inputs = phase(graph, reward, text, 5, scope)
    settings = replace(settings, keep=keep, candidates=candidates)
    scores: list[Tensor] = []
    monkeypatch.setattr(ops, "score_and_prune", recorded(ops.score_and_prune, scores))
    made = graph.roll_out(settings, inputs, reward)

    # The rollout keeps and scores with its own rounding: where no choice was close, all of it is the same.
    wide = CudaEngine(model, MAX_TOKENS, "fp32", "persistent")
    settings, inputs = phase(wide, reward, text, 5, scope)
    expected = wide.roll_out(replace(settings, keep=keep, candidates=candidates), inputs, reward)
    storage = STORAGE[weights]
    assert made.thoughts.shape == expected.thoughts.shape
    if weights == "fp32":
        assert torch.equal(made.lineage, expected.lineage)
        assert torch.equal(made.final_keys, expected.final_keys)
        assert torch.equal(made.final_prompts, expected.final_prompts)
        assert torch.equal(made.ancestry, expected.ancestry)
        assert_close(made.thoughts, expected.thoughts, "latent_phase", storage=storage)
        assert_close(made.step_scores, expected.step_scores, "step_score", storage=storage)
    assert_kept_are_the_best(made, settings, keep, candidates, scores)


def recorded(function: Callable, totals: list[Tensor]) -> Callable:
    def call(*arguments: Any) -> Any:
        found = function(*arguments)
        totals.append(found[1].clone())
        return found

    return call


def assert_kept_are_the_best(
    made: LatentOutputs,
    settings: LatentSettings,
    keep: tuple[int, ...],
    candidates: int,
    totals: list[Tensor],
) -> None:
    """At every step the rows that go on are those with the best totals of their question."""
    questions = settings.questions
    for t, total in enumerate(totals):
        if keep[t] == 0:
            continue
        width = len(total) // questions
        best = total.reshape(questions, width).topk(min(keep[t], width), dim=1).indices
        wanted = {q * width + row for q, rows in enumerate(best.tolist()) for row in rows}
        seen = set(made.lineage[:, t].tolist())
        later = [k for k in keep[t + 1 :] if k > 0]
        assert seen <= wanted
        if not later:
            assert seen == wanted


@pytest.mark.parametrize("text", ["noise:0.4", "dropout:0.2"])
@pytest.mark.parametrize("rung", RUNGS)
def test_a_beam_search_goes_on_as_that_of_the_native_engine(
    generator: torch.Generator, rung: str, text: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    beam = Beam(2, 3)
    request = LatentRequest(prompts, keys_of(prompts, 6), Sampler.parse(text), SEED, beam)
    runs = []
    for engine in (CudaEngine(model, MAX_TOKENS, "fp32", rung), make_engine("native", model)):
        cache, reward_cache = (
            engine.read_prompts(prompts, request.sampler),
            engine.read_reward_prompts(reward, prompts),
        )
        run = engine.sample(request, cache, reward, reward_cache)
        answers = engine.answer(run, torch.arange(run.rows), max_tokens=MAX_TOKENS)
        runs.append((run, answers.tokens))
    (ours, tokens), (native, wanted) = runs
    assert torch.equal(ours.keys, native.keys)
    assert torch.equal(ours.lineage, native.lineage)
    assert_close(ours.thoughts, native.thoughts, "latent_phase")
    assert tokens == wanted


@pytest.mark.parametrize("rung", RUNGS)
def test_one_candidate_without_pruning_is_the_plain_run(generator: torch.Generator, rung: str) -> None:
    model, reward = random_model(generator), random_reward(generator)
    engine = CudaEngine(model, MAX_TOKENS, "fp32", rung)
    settings, inputs = phase(engine, reward, "noise:0.5", 4)
    plain = engine.roll_out(settings, inputs, reward)
    beams = engine.roll_out(replace(settings, keep=(4, 4, 4, 4)), inputs, reward)
    assert torch.equal(beams.thoughts, plain.thoughts)
    assert torch.equal(beams.step_scores, plain.step_scores)


@pytest.mark.parametrize(
    ("keep", "candidates", "named"),
    [((1, 2), 1, "keep: got"), ((-1, 0, 0, 0), 1, "keep: got"), ((), 0, "candidates: got 0")],
)
def test_a_beam_search_that_cannot_be_is_refused(
    generator: torch.Generator, keep: tuple[int, ...], candidates: int, named: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    engine = CudaEngine(model, MAX_TOKENS, "fp32", "graph")
    settings, inputs = phase(engine, reward, "noise:0.5", 2)
    with pytest.raises(ValueError, match=named):
        engine.roll_out(replace(settings, keep=keep, candidates=candidates), inputs, reward)
    with pytest.raises(ValueError, match="pruning needs a LatentRM"):
        engine.roll_out(replace(settings, keep=(1, 1, 1, 1)), inputs, None)


class NothingForTheHost(TorchDispatchMode):
    """Raises where code could not be captured: a value that Python looks at, a size that depends on values, a
    tensor made from host data."""

    FORBIDDEN = (
        "_local_scalar_dense",
        "nonzero",
        "lift_fresh",
        "masked_select",
        "_unique2",
        "is_nonzero",
        "equal",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{func} waits for the device or copies from the host"
        if name in ("index", "index_put", "index_put_"):
            for index in args[1]:
                assert index is None or index.dtype == torch.int64, f"{func} by a mask waits for the device"
        assert func is not torch.ops.aten.repeat_interleave.Tensor, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("keep", [(), (3, 2, 2, 1)])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("body", BODIES)
def test_what_is_captured_looks_at_no_value(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, body: str, scope: str, keep: tuple[int, ...]
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator, head="policy"), make_reward(generator)
    calls = 0

    def watched(self: Capture) -> None:
        nonlocal calls
        calls += 1
        with NothingForTheHost():
            self._function()

    # On a CPU the range of an index is looked at; on CUDA an assertion of the device takes its place.
    monkeypatch.setattr("latent_ext.ops.keys.check_range", lambda *_: None)
    monkeypatch.setattr(Capture, "__call__", watched)
    engine = CudaEngine(model, MAX_TOKENS, "fp32", "graph")
    settings, inputs = phase(engine, reward, "dropout:0.2+noise:0.4:relative", 4, scope)
    engine.roll_out(replace(settings, keep=keep, candidates=2 if keep else 1), inputs, reward)
    prompts = [model.encode(question) for question in QUESTIONS]
    run = sample(engine, prompts, Sampler.parse("noise:0.5"))
    before = calls
    answer_all(engine, run, temperature=1.0)
    assert before >= 4
    assert calls > before + 1


def test_the_watch_itself_sees_what_cannot_be_captured() -> None:
    values = torch.arange(4)
    for spoil in (
        lambda: values.sum().item(),
        lambda: torch.tensor([1, 2]),
        lambda: values[values > 1],
        lambda: values.nonzero(),
        lambda: bool((values > 1).all()),
    ):
        with pytest.raises(AssertionError, match="waits for the device"), NothingForTheHost():
            spoil()


@pytest.mark.parametrize("rung", RUNGS)
def test_a_run_keeps_its_state_when_others_use_the_same_buffers(
    generator: torch.Generator, rung: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    sampler = Sampler.parse("noise:0.6")
    alone = CudaEngine(model, MAX_TOKENS, "fp32", rung)
    run = sample(alone, prompts, sampler, reward=reward)
    thoughts, answers = run.thoughts.clone(), answer_all(alone, run)

    again = sample(alone, prompts, sampler, reward=reward)
    other_keys = keys_of(prompts, 3) + 1
    sample(alone, list(reversed(prompts)), sampler, keys=other_keys, reward=reward)
    assert torch.equal(again.thoughts, thoughts)
    assert answer_all(alone, again).tokens == answers.tokens


def test_another_seed_and_other_keys_reach_a_recorded_phase(generator: torch.Generator) -> None:
    model = random_model(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    sampler = Sampler.parse("dropout:0.2+noise:0.3")
    engine, reference = CudaEngine(model, MAX_TOKENS, "fp32", "graph"), make_engine("reference", model)
    keys = keys_of(prompts, 3)
    for seed, own in ((SEED, keys), (SEED + 1, keys), (SEED, keys.flip(1).contiguous())):
        request = LatentRequest(prompts, own, sampler, seed)
        run = engine.sample(request, engine.read_prompts(prompts, sampler))
        expected = reference.sample(request, None)
        assert_close(run.thoughts, expected.thoughts, "latent_phase")
    assert len([key for key in engine.blocks.captured._held if key[0] == "latent"]) == 1


@pytest.mark.parametrize("which", ["model", "reward"])
def test_weights_that_change_are_seen_by_the_next_run(generator: torch.Generator, which: str) -> None:
    model, reward = random_model(generator), random_reward(generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    sampler = Sampler.parse("noise:0.5:relative")
    sample(CudaEngine(model, MAX_TOKENS, "bf16", "graph"), prompts, sampler, reward=reward)
    with torch.no_grad():
        changed = model.hf.transformer if which == "model" else reward.module
        for parameter in changed.parameters():
            parameter.mul_(1.2)
    assert_engines_agree(model, reward, sampler, CudaEngine(model, MAX_TOKENS, "bf16", "graph"))


def test_pieces_in_the_wanted_format_share_the_model_s_own_weights(generator: torch.Generator) -> None:
    model = random_model(generator)
    own = {parameter.data_ptr() for parameter in model.body.parameters()}
    blocks = cuda_blocks(model.body, "fp32")
    assert all(linear[0].data_ptr() in own for layer in blocks._linears for linear in layer)
    assert cuda_blocks(model.body, "fp32") is blocks
    assert cuda_blocks(model.body, "bf16") is not blocks
    with pytest.raises(ValueError, match="weights: got 'int8'; allowed on CUDA are fp32, bf16"):
        cuda_blocks(model.body, "int8")


def test_decoding_stops_soon_after_the_last_row_has_ended(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(generator)
    with torch.no_grad():
        model.hf.lm_head.weight[model.ids.eos] = 0.0
        model.hf.transformer.ln_f.weight.zero_()
        model.hf.transformer.ln_f.bias.copy_(model.hf.lm_head.weight[5])
        model.hf.lm_head.weight[model.ids.eos] = 9.0 * model.hf.lm_head.weight[5]
    steps = 0
    original = ops.next_token

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal steps
        steps += 1
        return original(*arguments, **named)

    monkeypatch.setattr(ops, "next_token", counted)
    prompts = [model.encode(QUESTIONS[2])]
    engine = CudaEngine(model, 40, "fp32", "graph")
    answers = answer_all(engine, sample(engine, prompts, Sampler.parse("noise:0.5")), max_tokens=40)
    assert answers.tokens == [[], [], []]
    assert bool(answers.finished.all())
    assert 2 <= steps <= 2 * CHECK_EVERY


@pytest.mark.parametrize("rung", RUNGS)
def test_no_row_to_answer_is_no_work(generator: torch.Generator, rung: str) -> None:
    model = random_model(generator)
    engine = CudaEngine(model, MAX_TOKENS, "fp32", rung)
    run = sample(engine, [model.encode(QUESTIONS[2])], Sampler.parse("noise:0.5"))
    none = engine.answer(run, torch.zeros(0, dtype=torch.int64), max_tokens=3)
    assert none.tokens == []
    with pytest.raises(ValueError, match="max_tokens: got 6; this engine was made for at most 5"):
        engine.answer(run, torch.zeros(1, dtype=torch.int64), max_tokens=6)
