"""engine="native" on a CUDA device: the reference engine's results by every rung, equal bits, no waiting."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from random_models import (
    BODIES,
    HEADS,
    MAX_TOKENS,
    QUESTIONS,
    SEED,
    answer_all,
    assert_same_answers,
    keys_of,
    make_engine,
    sample,
)
from test_cuda_engine import BEAMS
from test_engine_agreement import LLAMA_SHAPES, SAMPLERS, SCOPES, STORAGE
from test_native_invariance import ORGANISATIONS
from torch import Tensor

import latent_ext
from latent_ext.engine.base import Answers, LatentRequest, LatentRun
from latent_ext.engine.cuda import CudaEngine
from latent_ext.engine.cuda_blocks import DTYPES
from latent_ext.engine.cuda_latent import LatentInputs, LatentSettings
from latent_ext.engine.cuda_rungs import BIT_EQUAL, RUNGS, choose_rung, rung_report
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: no CUDA device"
    ),
]


def need(rung: str) -> None:
    """Skips where this device cannot take a rung (no cooperative launch, for one), with the device's reason."""
    choice = next(choice for choice in rung_report("cuda") if choice.name == rung)
    if not choice.usable:
        pytest.skip(f"rung {rung}: {choice.why}")


def usable_rungs() -> list[str]:
    return [choice.name for choice in rung_report("cuda") if choice.usable]


def moved(model: LatentModel, reward: LatentRM) -> tuple[LatentModel, LatentRM]:
    """Copies of both on the device."""
    return (
        replace(model, hf=copy.deepcopy(model.hf).cuda()),
        replace(reward, module=copy.deepcopy(reward.module).cuda()),
    )


def on_host(run: LatentRun) -> LatentRun:
    prompts = [prompt.cpu() for prompt in run.request.prompts]
    request = replace(run.request, prompts=prompts)
    scores = None if run.scores is None else run.scores.cpu()
    return LatentRun(request, run.thoughts.cpu(), None, scores)


def answered(engine: CudaEngine, run: LatentRun, temperature: float) -> Answers:
    answers = answer_all(engine, run, temperature)
    return replace(answers, logprobs=answers.logprobs.cpu(), finished=answers.finished.cpu())


@contextmanager
def naming(rung: str) -> Iterator[None]:
    """Says in a failure which rung it was."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"rung {rung!r}: {error}") from error


def assert_every_rung_agrees_with_reference(
    generator: torch.Generator,
    body: str,
    weights: str,
    sampler: Sampler,
    *,
    head: str = "none",
    changes: dict[str, object] | None = None,
) -> None:
    """Thoughts, scores and answers on the device against the reference engine on the CPU in float32."""
    make_model, make_reward = BODIES[body]
    model = make_model(generator, head=head, **(changes or {}))
    reward = make_reward(generator, **(changes or {}))
    prompts = [model.encode(question) for question in QUESTIONS]
    reference = make_engine("reference", model)
    expected = sample(reference, prompts, sampler, reward=reward)
    slow = {temperature: answer_all(reference, expected, temperature) for temperature in (0.0, 1.0)}

    cuda_model, cuda_reward = moved(model, reward)
    cuda_prompts = [prompt.cuda() for prompt in prompts]
    storage = STORAGE[weights]
    for rung in usable_rungs():
        engine = CudaEngine(cuda_model, MAX_TOKENS, weights, rung)
        with naming(rung):
            for _ in range(2):  # what records, and what replays
                run = sample(engine, cuda_prompts, sampler, reward=cuda_reward)
                seen = on_host(run)
                assert_close(seen.thoughts, expected.thoughts, "latent_phase", storage=storage)
                assert_close(seen.scores, expected.scores, "step_score", storage=storage)
                for temperature, wanted in slow.items():
                    fast = answered(engine, run, temperature)
                    if storage == torch.float32:
                        assert_same_answers(model, expected, fast, wanted, temperature)
                    pairs = enumerate(zip(fast.tokens, wanted.tokens, strict=True))
                    same = [n for n, (got, want) in pairs if got == want]
                    assert len(same) >= run.rows // 3
                    assert_close(
                        fast.logprobs[same], wanted.logprobs[same], "answer_logprob", storage=storage
                    )


@pytest.mark.parametrize("rung", RUNGS)
def test_the_device_can_take_every_rung(rung: str) -> None:
    need(rung)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
def test_every_sampler_and_scope_agrees_with_reference(
    generator: torch.Generator, body: str, text: str, scope: str
) -> None:
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    assert_every_rung_agrees_with_reference(generator, body, "fp32", sampler)


@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("body", BODIES)
def test_every_format_and_site_agrees_with_reference(
    generator: torch.Generator, body: str, scope: str, weights: str
) -> None:
    text = "dropout:0.1+noise:0.4:relative"
    sampler = Sampler.parse(text, scope=scope, sites="residual+embedding")  # type: ignore[arg-type]
    assert_every_rung_agrees_with_reference(generator, body, weights, sampler)


@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("head", [head for head in HEADS if head != "none"])
@pytest.mark.parametrize("body", BODIES)
def test_a_thought_head_agrees_with_reference(
    generator: torch.Generator, body: str, head: str, weights: str
) -> None:
    sampler = Sampler.parse("dropout:0.1+noise:0.4:relative")
    assert_every_rung_agrees_with_reference(generator, body, weights, sampler, head=head)


@pytest.mark.parametrize("shape", LLAMA_SHAPES, ids=str)
def test_every_shape_of_llama_agrees_with_reference(generator: torch.Generator, shape: str) -> None:
    sampler = Sampler.parse("dropout:0.2")
    assert_every_rung_agrees_with_reference(generator, "llama", "fp32", sampler, changes=LLAMA_SHAPES[shape])


def phase(engine: CudaEngine, reward: LatentRM, text: str, count: int) -> tuple[LatentSettings, LatentInputs]:
    sampler = Sampler.parse(text)
    prompts = [engine.model.encode(question) for question in QUESTIONS]
    request = LatentRequest(prompts, keys_of(prompts, count), sampler, SEED)
    return engine.inputs(
        request, engine.read_prompts(prompts, sampler), engine.read_reward_prompts(reward, prompts)
    )


@pytest.mark.parametrize(("keep", "candidates"), BEAMS)
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("body", BODIES)
def test_beams_are_those_of_the_cpu(
    generator: torch.Generator, body: str, rung: str, keep: tuple[int, ...], candidates: int
) -> None:
    need(rung)
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    made = []
    for own, scorer, name in ((model, reward, "persistent"), (*moved(model, reward), rung)):
        engine = CudaEngine(own, MAX_TOKENS, "fp32", name)
        settings, inputs = phase(engine, scorer, "noise:0.4:relative", 5)
        made.append(engine.roll_out(replace(settings, keep=keep, candidates=candidates), inputs, scorer))
    expected, actual = made
    assert torch.equal(actual.lineage.cpu(), expected.lineage)
    assert torch.equal(actual.final_keys.cpu(), expected.final_keys)
    assert torch.equal(actual.final_prompts.cpu(), expected.final_prompts)
    assert_close(actual.thoughts.cpu(), expected.thoughts, "latent_phase")
    assert_close(actual.step_scores.cpu(), expected.step_scores, "step_score")


def solved(
    model: LatentModel, reward: LatentRM, sampler: Sampler, weights: str, rung: str, **how: object
) -> tuple[Tensor, Tensor]:
    """Thoughts and step scores of the first 16 trajectories of the second question."""
    asked = how.pop("questions", [QUESTIONS[1]])
    results = latent_ext.solve(
        model, asked, n=how.pop("n", 16), sampler=sampler, reward=reward, engine="native", weights=weights, rung=rung,
        seed=SEED, max_answer_tokens=4, return_thoughts=True, **how,
    )  # fmt: skip
    chosen = next(result for result in results if result.question == QUESTIONS[1]).trajectories[:16]
    scores = torch.tensor([trajectory.step_scores for trajectory in chosen], dtype=torch.float64)
    return torch.stack([trajectory.thoughts for trajectory in chosen]), scores


@pytest.mark.parametrize(
    ("text", "scope", "weights"),
    [
        ("noise:0.4:relative", "latent", "fp32"),
        ("noise:0.4:relative", "latent", "bf16"),
        ("dropout:0.3:trajectory+noise:0.6", "prompt+latent", "bf16"),
    ],
)
@pytest.mark.parametrize("rung", BIT_EQUAL)
@pytest.mark.parametrize("body", BODIES)
def test_nothing_about_the_organisation_of_a_run_changes_a_bit_of_its_thoughts(
    generator: torch.Generator, body: str, rung: str, text: str, scope: str, weights: str
) -> None:
    need(rung)
    make_model, make_reward = BODIES[body]
    model, reward = moved(make_model(generator), make_reward(generator))
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    thoughts, scores = solved(model, reward, sampler, weights, rung)
    for how, organisation in ORGANISATIONS.items():
        again, again_scores = solved(model, reward, sampler, weights, rung, **organisation)
        assert torch.equal(again, thoughts), how
        assert torch.equal(again_scores, scores), how


@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("rung", BIT_EQUAL)
@pytest.mark.parametrize("body", BODIES)
def test_pruning_siblings_changes_no_bit_of_those_that_stay(
    generator: torch.Generator, body: str, rung: str, weights: str
) -> None:
    need(rung)
    make_model, make_reward = BODIES[body]
    model, reward = moved(make_model(generator), make_reward(generator))
    engine = CudaEngine(model, MAX_TOKENS, weights, rung)
    settings, inputs = phase(engine, reward, "dropout:0.2+noise:0.4", 16)
    plain = engine.roll_out(settings, inputs, reward)
    pruned = engine.roll_out(replace(settings, keep=(9, 0, 5, 2)), inputs, reward)
    assert len(pruned.thoughts) == 2 * len(QUESTIONS)
    ancestors = pruned.lineage[:, 0]
    assert torch.equal(pruned.thoughts, plain.thoughts[ancestors])
    assert torch.equal(pruned.step_scores, plain.step_scores[ancestors])
    assert torch.equal(pruned.final_keys, inputs.keys[ancestors])


@contextmanager
def host_must_not_wait() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("rung", RUNGS)
def test_the_latent_phase_never_makes_the_host_wait(
    generator: torch.Generator, rung: str, scope: str
) -> None:
    need(rung)
    model, reward = moved(BODIES["gpt2"][0](generator), BODIES["gpt2"][1](generator))
    engine = CudaEngine(model, MAX_TOKENS, "bf16", rung)
    sampler = Sampler.parse("dropout:0.2+noise:0.4", scope=scope)  # type: ignore[arg-type]
    prompts = [model.encode(question) for question in QUESTIONS]
    request = LatentRequest(prompts, keys_of(prompts, 4), sampler, SEED)
    cache, scored = engine.read_prompts(prompts, sampler), engine.read_reward_prompts(reward, prompts)
    expected = engine.sample(request, cache, reward, scored).thoughts.clone()
    torch.cuda.synchronize()
    with host_must_not_wait():
        run = engine.sample(request, cache, reward, scored)
        settings, inputs = engine.inputs(request, cache, scored)
        with pytest.raises(RuntimeError):
            inputs.keys[0].item()  # the watch works
    torch.cuda.synchronize()
    assert torch.equal(run.thoughts, expected)
    beams = replace(settings, keep=(2, 2, 2, 1), candidates=2)
    engine.roll_out(beams, inputs, reward)
    with host_must_not_wait():
        engine.roll_out(beams, inputs, reward)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_run_on_a_side_stream_is_the_run_on_the_default_stream(
    generator: torch.Generator, rung: str
) -> None:
    need(rung)
    model, reward = moved(BODIES["llama"][0](generator), BODIES["llama"][1](generator))
    engine = CudaEngine(model, MAX_TOKENS, "fp32", rung)
    sampler = Sampler.parse("dropout:0.2+noise:0.4")
    prompts = [model.encode(question) for question in QUESTIONS]
    first = sample(engine, prompts, sampler, reward=reward)
    answers = answer_all(engine, first)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # work on another stream would finish before its inputs are there
        late = [prompt + 0 for prompt in prompts]
        second = sample(engine, late, sampler, reward=reward)
        late_answers = answer_all(engine, second)
    # The default stream goes on in the same buffers.
    third = sample(engine, prompts, sampler, reward=reward)
    torch.cuda.synchronize()
    for run in (second, third):
        assert torch.equal(run.thoughts, first.thoughts)
        assert torch.equal(run.scores, first.scores)
    assert late_answers.tokens == answers.tokens


@pytest.mark.parametrize("rung", RUNGS)
def test_a_replay_draws_for_the_seed_and_keys_it_is_given(generator: torch.Generator, rung: str) -> None:
    need(rung)
    cpu_model, cpu_reward = BODIES["gpt2"][0](generator), BODIES["gpt2"][1](generator)
    model, _ = moved(cpu_model, cpu_reward)
    engine, reference = CudaEngine(model, MAX_TOKENS, "fp32", rung), make_engine("reference", cpu_model)
    prompts = [cpu_model.encode(question) for question in QUESTIONS]
    sampler = Sampler.parse("dropout:0.2+noise:0.3")
    keys = keys_of(prompts, 3)
    for seed, own in ((SEED, keys), (SEED + 1, keys), (SEED, keys.flip(1).contiguous())):
        on_device = LatentRequest([prompt.cuda() for prompt in prompts], own, sampler, seed)
        run = engine.sample(on_device, engine.read_prompts(on_device.prompts, sampler))
        expected = reference.sample(LatentRequest(prompts, own, sampler, seed), None)
        assert_close(run.thoughts.cpu(), expected.thoughts, "latent_phase")


def test_the_persistent_rung_is_one_launch(generator: torch.Generator) -> None:
    need("persistent")
    model, reward = moved(BODIES["gpt2"][0](generator), BODIES["gpt2"][1](generator))
    engine = CudaEngine(model, MAX_TOKENS, "bf16", "persistent")
    settings, inputs = phase(engine, reward, "noise:0.4", 8)
    engine.roll_out(settings, inputs, reward)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        engine.roll_out(settings, inputs, reward)
        torch.cuda.synchronize()
    kernels = [e.name for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    if not kernels:
        pytest.skip("the profiler sees no kernels on this machine")
    assert sum("latent_ext" in name for name in kernels) == 1, kernels


def test_auto_takes_the_native_engine_and_the_result_says_by_which_rung(generator: torch.Generator) -> None:
    model, reward = moved(BODIES["gpt2"][0](generator), BODIES["gpt2"][1](generator))
    result = latent_ext.solve(model, QUESTIONS[1], n=4, sampler="noise:0.5", reward=reward)[0]
    assert result.settings["engine"] == "native"
    assert result.settings["rung"] == choose_rung(None, "cuda").name
    with pytest.raises(ValueError, match="on CUDA it computes in fp32 or bf16, not in int8"):
        latent_ext.solve(model, QUESTIONS[1], n=1, weights="int8")
    with pytest.raises(ValueError, match="reward: is on cpu; the model is on cuda:0"):
        latent_ext.solve(model, QUESTIONS[1], n=1, reward=BODIES["gpt2"][1](generator))


@pytest.mark.parametrize("select", ["best_of_n", "weighted_vote"])
@pytest.mark.parametrize("rung", RUNGS)
def test_the_shipped_model_chooses_on_the_device_what_it_chooses_on_the_cpu(rung: str, select: str) -> None:
    need(rung)
    question = "Omar has 23 stones. He loses 6. How many stones does Omar have now?"
    how = {"n": 16, "sampler": "noise:0.6:relative", "select": select}
    here = latent_ext.solve(latent_ext.load(), question, reward=latent_ext.load_reward(), **how)[0]
    model, reward = latent_ext.load(device="cuda"), latent_ext.load_reward(device="cuda")
    there = latent_ext.solve(model, question, reward=reward, rung=rung, **how)[0]
    assert (there.chosen, there.answer) == (here.chosen, here.answer)


def test_the_command_line_runs_on_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(
        "rich"
    )  # a machine that builds for itself may lack what the command line is drawn with
    from latent_ext_cli.app import main

    question = "Omar has 23 stones. He loses 6. How many stones does Omar have now?"
    arguments = ["latent-ext", "solve", question, "--n", "4", "--device", "cuda", "--rung", "graph", "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["settings"]["rung"] == "graph"


@pytest.mark.parametrize("name", ["cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=f"device: got '{name}'; allowed are cuda:0 to cuda:"):
        latent_ext.load(device=name)
