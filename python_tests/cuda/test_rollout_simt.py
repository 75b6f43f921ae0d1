"""The rollout kernel on the host: it does what the reference does, in any grid, schedule and launch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from packed_cases import BODIES
from rollout_cases import CASES, WEIGHTS, RolloutCase, assert_rollout_agrees, rollout_case
from simt_calls import run_on_shim, same_bits
from torch import Generator, Tensor

from latent_ext import ops
from latent_ext.ops.tolerances import assert_close


def run(simt: ModuleType, case: RolloutCase, rung: str = "persistent", **launch: Any) -> list[Tensor]:
    return run_on_shim(simt, case.cuda.with_arguments(rung=rung), **launch)


def results(simt: ModuleType, case: RolloutCase, **launch: Any) -> list[Tensor]:
    """What is said of the rows at the end; of the others nothing is."""
    named = case.results(run(simt, case, **launch))
    return [value for value in named.values() if value is not None]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", CASES)
def test_fp32_agrees_with_the_reference(simt: ModuleType, generator: Generator, name: str, body: str) -> None:
    case = rollout_case(generator, body, **CASES[name])
    assert_rollout_agrees(case, run(simt, case), "fp32")


@pytest.mark.parametrize(
    "name", ["noise and dropout", "branched, a pass for each child", "wide rows", "split inputs"]
)
@pytest.mark.parametrize("body", BODIES)
def test_bf16_agrees_with_the_reference(simt: ModuleType, generator: Generator, name: str, body: str) -> None:
    case = rollout_case(generator, body, "bf16", **CASES[name])
    assert_rollout_agrees(case, run(simt, case), "bf16")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_grid_the_schedule_and_the_kind_of_launch_change_no_bit(
    simt: ModuleType, generator: Generator, weights: str
) -> None:
    case = rollout_case(
        generator,
        weights=weights,
        rows=4,
        questions=2,
        sigma=0.3,
        p=0.2,
        keep=(1, 0, 2, 1),
        candidates=2,
        reward_layers=1,
    )
    expected = results(simt, case)
    for launch in (
        {"blocks": 1, "shared_limit": 101376},  # few chunks in the ring
        {"shared_limit": 61000},  # rows in the ring's memory, no weights ahead
        {"blocks": 5, "order": 3},
        {"rung": "stream"},
        {"rung": "stream", "blocks": 2, "order": 9},
    ):
        assert same_bits(results(simt, case, **launch), expected), launch


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_row_has_the_same_bits_whatever_the_batch(
    simt: ModuleType, generator: Generator, weights: str
) -> None:
    case = rollout_case(
        generator, weights=weights, rows=18, layers=1, reward_layers=1, read=0, sigma=0.3, p=0.2
    )
    together = case.results(run(simt, case))
    few = torch.tensor([17, 2])
    alone = RolloutCase(_select(case.cpu, few), _select(case.cuda, few))
    apart = alone.results(run(simt, alone))
    for name in ("thoughts", "step_scores"):
        assert same_bits([apart[name]], [together[name][few]]), name


def _select(case: Any, rows: Tensor) -> Any:
    """Some rows of a call that has no positions before it, which write to slots of their own."""
    selected = case.select(rows)
    slots = len(rows)
    a = selected.arguments
    return selected.with_arguments(
        suffix_key=a["suffix_key"][:, :slots].contiguous(),
        suffix_value=a["suffix_value"][:, :slots].contiguous(),
        ancestry=torch.arange(slots).unsqueeze(1).expand(slots, a["ancestry"].shape[1]).contiguous(),
        questions=1,
    )


def test_pruning_changes_no_bit_of_the_rows_that_stay(simt: ModuleType, generator: Generator) -> None:
    case = rollout_case(generator, rows=8, sigma=0.3, p=0.2)
    free = case.results(run(simt, case))
    pruned = case.with_arguments(keep=[4, 0, 2, 1])
    kept = pruned.results(run(simt, pruned))
    row = (free["final_keys"] == kept["final_keys"]).nonzero().squeeze(1)
    for name in ("thoughts", "step_scores", "suffix_key", "suffix_value"):
        assert same_bits([kept[name]], [free[name][row]]), name


@pytest.mark.parametrize(
    ("argument", "value"), [("prompt_index", 3), ("prompt_index", -1), ("ancestry", 99), ("prompt_len", 35)]
)
def test_an_index_that_makes_no_sense_gives_nan_for_its_row_alone(
    simt: ModuleType, generator: Generator, argument: str, value: int
) -> None:
    case = rollout_case(generator, rows=4, sigma=0.3)
    good = case.results(run(simt, case))
    wrong = case.cuda.arguments[argument].clone()
    if argument == "prompt_len":
        index = case.cuda.arguments["prompt_index"]
        wrong[index[1]] = value  # a length past the cache and the table of positions
        hit = index == index[1]
    else:
        wrong[1] = value
        hit = torch.arange(4) == 1
    bad = case.with_arguments(**{argument: wrong})
    named = dict(zip(bad.cuda.written(), run(simt, bad), strict=True))
    assert named["thoughts"][hit].isnan().all()
    assert named["final_prompts"][hit].tolist() == [-1] * int(hit.sum())
    assert torch.equal(named["thoughts"][~hit], good["thoughts"][~hit])


def test_a_model_packed_for_one_device_is_refused_on_the_other(
    simt: ModuleType, generator: Generator
) -> None:
    case = rollout_case(generator)
    with pytest.raises(RuntimeError, match="packed for CUDA, not for the CPU"):
        ops.latent_rollout(**case.cpu.with_arguments(model=case.cuda.arguments["model"]).arguments)
    panels = case.cpu.arguments["model"]
    header = panels[: len(panels) // 8 * 8].view(torch.int64)
    mixed = RolloutCase(case.cpu, case.cuda.with_arguments(model=panels, model_header=header))
    with pytest.raises(RuntimeError, match="packed for the CPU, not for CUDA"):
        run(simt, mixed)


def test_a_cut_header_is_refused(simt: ModuleType, generator: Generator) -> None:
    case = rollout_case(generator)
    with pytest.raises(RuntimeError, match="model is not a packed model: its header is cut off"):
        run(simt, case.with_arguments(model_header=case.cuda.arguments["model_header"][:40].clone()))
    with pytest.raises(RuntimeError, match="model is not a packed model: it states"):
        run(simt, case.with_arguments(model=case.cuda.arguments["model"][:-64].clone()))


def test_rotary_angles_have_sine_and_cosine_of_every_position(simt: ModuleType, generator: Generator) -> None:
    positions = torch.randint(0, 1 << 20, (20000,), generator=generator).float()
    angles = positions * torch.rand(20000, generator=generator)
    angles[:4] = torch.tensor([0.0, 1.5707964, 3.1415927, 1048575.0])
    for result, function in zip(simt.sine_cosine(angles.numpy()), (torch.sin, torch.cos), strict=True):
        assert_close(
            torch.from_numpy(result).double(), function(angles.double()), "rotation", storage=torch.float32
        )
