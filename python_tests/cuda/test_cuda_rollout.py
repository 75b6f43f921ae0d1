"""The rollout on a CUDA device: the reference's numbers and decisions, the same bits by one launch or many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import OpCase
from packed_cases import BODIES
from rollout_cases import CASES, WEIGHTS, RolloutCase, assert_rollout_agrees, rollout_case
from simt_calls import same_bits
from torch import Generator, Tensor

from latent_ext import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: no CUDA device"
    ),
]

RUNGS = ("persistent", "stream")


def on_cuda(case: OpCase) -> OpCase:
    """Headers stay with the host."""
    return case.with_arguments(
        **{
            n: v.cuda()
            for n, v in case.arguments.items()
            if isinstance(v, Tensor) and not n.endswith("header")
        }
    )


def run(case: RolloutCase, rung: str) -> list[Tensor]:
    return [value.cpu() for value in on_cuda(case.cuda.with_arguments(rung=rung)).run()]


def results(case: RolloutCase, rung: str) -> list[Tensor]:
    return [value for value in case.results(run(case, rung)).values() if value is not None]


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_reference(
    generator: Generator, name: str, body: str, weights: str, rung: str
) -> None:
    case = rollout_case(generator, body, weights, **CASES[name])
    assert_rollout_agrees(case, run(case, rung), weights)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", CASES)
def test_one_launch_and_many_give_the_same_bits(generator: Generator, name: str, weights: str) -> None:
    case = rollout_case(generator, "llama", weights, **CASES[name])
    assert same_bits(results(case, "persistent"), results(case, "stream"))


@pytest.mark.parametrize("rung", RUNGS)
def test_pruning_changes_no_bit_of_the_rows_that_stay(generator: Generator, rung: str) -> None:
    case = rollout_case(generator, weights="bf16", rows=64, hidden=96, inner=384, sigma=0.3, p=0.2)
    free = case.results(run(case, rung))
    pruned = case.with_arguments(keep=[32, 0, 7, 1])
    kept = pruned.results(run(pruned, rung))
    row = (free["final_keys"] == kept["final_keys"]).nonzero().squeeze(1)
    for name in ("thoughts", "step_scores", "suffix_key", "suffix_value"):
        assert same_bits([kept[name]], [free[name][row]]), name


@pytest.mark.parametrize("rung", RUNGS)
def test_repeated_calls_give_the_same_bits(generator: Generator, rung: str) -> None:
    """A wait that does not hold would show as results that move."""
    case = rollout_case(generator, weights="bf16", rows=60, hidden=288, inner=1040, sigma=0.3, p=0.2)
    expected = results(case, rung)
    for _ in range(10):
        assert same_bits(results(case, rung), expected)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_captured_graph_draws_with_the_seed_it_finds(generator: Generator, rung: str) -> None:
    case = on_cuda(rollout_case(generator, rows=9, sigma=0.3, p=0.2).cuda.with_arguments(rung=rung))
    arguments = case.arguments
    call: dict[str, Any] = {n: v.clone() if isinstance(v, Tensor) else v for n, v in arguments.items()}
    ops.latent_rollout(**call)  # warm-up
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.latent_rollout(**call)
    for _ in range(2):
        call["seed"].add_(1)
        graph.replay()
        torch.cuda.synchronize()
        again = dict(zip(case.written(), case.with_arguments(seed=call["seed"]).run(), strict=True))
        assert same_bits([call["thoughts"].cpu()], [again["thoughts"].cpu()])


@pytest.mark.parametrize("rung", RUNGS)
def test_runs_on_the_current_stream_without_waiting_for_the_device(generator: Generator, rung: str) -> None:
    case = rollout_case(generator, rows=9, sigma=0.3)
    expected = results(case, rung)
    moved = on_cuda(case.cuda.with_arguments(rung=rung))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # an op on another stream would finish before its inputs are there
        late = moved.with_arguments(first=moved.arguments["first"] + 0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            written = late.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    named = case.results([value.cpu() for value in written])
    assert same_bits([value for value in named.values() if value is not None], expected)


@pytest.mark.parametrize("rung", RUNGS)
def test_an_index_that_makes_no_sense_gives_nan_for_its_row_alone(generator: Generator, rung: str) -> None:
    case = rollout_case(generator, rows=4, sigma=0.3)
    good = case.results(run(case, rung))
    wrong = case.cuda.arguments["prompt_index"].clone()
    wrong[1] = 99
    bad = case.with_arguments(prompt_index=wrong)
    named = dict(zip(bad.cuda.written(), run(bad, rung), strict=True))
    others = torch.tensor([0, 2, 3])
    assert named["thoughts"][1].isnan().all()
    assert named["final_prompts"][1] == -1
    assert torch.equal(named["thoughts"][others], good["thoughts"][others])


def test_a_rung_that_is_none_is_refused(generator: Generator) -> None:
    case = on_cuda(rollout_case(generator).cuda)
    with pytest.raises(RuntimeError, match=r'rung must be "auto", "persistent" or "stream", got "warp"'):
        case.with_arguments(rung="warp").run()
