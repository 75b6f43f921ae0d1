"""next_thought: every kind of noise, what is written and what is not, NaN, extremes."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, HIDDEN, ROWS, next_thought_case

from latent_ext.ops import next_thought, next_thought_reference, philox, sites
from latent_ext.ops.tolerances import assert_close

NOISES = ("none", "absolute", "relative", "head")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("rows", ROWS)
def test_agrees_with_the_reference(
    generator: torch.Generator, rows: int, hidden: int, noise: str, dtype: torch.dtype
) -> None:
    norm = ("layer", "rms", "none")[rows % 3]
    case = next_thought_case(generator, rows, hidden, dtype, norm, noise)
    for actual, expected in zip(case.run(), case.run_reference(), strict=True):
        assert_close(actual, expected, "thought")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
def test_every_norm_agrees_with_the_reference(
    generator: torch.Generator, norm: str, dtype: torch.dtype
) -> None:
    for noise in NOISES:
        case = next_thought_case(generator, 5, 257, dtype, norm, noise)
        for actual, expected in zip(case.run(), case.run_reference(), strict=True):
            assert_close(actual, expected, "thought")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", ["none", "absolute", "head"])
def test_without_a_norm_the_thought_is_exact(
    generator: torch.Generator, noise: str, dtype: torch.dtype
) -> None:
    case = next_thought_case(generator, 17, 129, dtype, "none", noise)
    assert_close(case.run()[0], case.run_reference()[0], "rng")


def test_the_noise_is_the_gaussian_of_philox(generator: torch.Generator) -> None:
    case = next_thought_case(generator, 5, 1023, norm="none", noise="absolute")
    case = case.with_arguments(hidden=torch.zeros(5, 1023), sigma=1.0)
    a = case.arguments
    assert torch.equal(case.run()[0], philox.normals(a["seed"], a["keys"], a["positions"], sites.NOISE, 1023))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("step", [0, 2, 3])
def test_only_the_given_step_of_thoughts_is_written(
    generator: torch.Generator, step: int, dtype: torch.dtype
) -> None:
    case = next_thought_case(generator, 17, 63, dtype, steps=4, step=step)
    next_input, thoughts = case.run()
    assert not next_input.isnan().any()
    assert torch.equal(thoughts[:, step], next_input)
    others = [other for other in range(4) if other != step]
    assert thoughts[:, others].isnan().all()


def test_thoughts_may_be_absent(generator: torch.Generator) -> None:
    case = next_thought_case(generator, 3, 63)
    (alone,) = case.with_arguments(thoughts=None).run()
    assert torch.equal(alone, case.run()[0])


def test_zero_sigma_draws_nothing_even_with_a_learned_deviation(generator: torch.Generator) -> None:
    case = next_thought_case(generator, 3, 63, norm="none", noise="head")
    case = case.with_arguments(sigma=0.0, log_std=torch.full((3, 63), torch.inf))
    assert torch.equal(case.run()[0], case.arguments["hidden"] * 0.75)


def test_relative_noise_scales_with_the_thought(generator: torch.Generator) -> None:
    case = next_thought_case(generator, 3, 768, norm="none", noise="relative")
    larger = case.with_arguments(hidden=case.arguments["hidden"] * 64.0)
    assert_close(larger.run()[0], case.run()[0] * 64.0, "thought")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("noise", NOISES)
def test_nan_and_infinity_stay_in_their_row(
    generator: torch.Generator, noise: str, value: float, dtype: torch.dtype
) -> None:
    case = next_thought_case(generator, 5, 63, dtype, "layer", noise)
    hidden = case.arguments["hidden"].clone()
    hidden[2, 1] = value
    clean, broken = case.run()[0], case.with_arguments(hidden=hidden)
    assert torch.equal(broken.run()[0][[0, 1, 3, 4]], clean[[0, 1, 3, 4]])
    assert broken.run()[0][2].isnan().any()
    assert_close(broken.run()[0], broken.run_reference()[0], "thought")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_learned_deviations_agree_with_the_reference(
    generator: torch.Generator, dtype: torch.dtype
) -> None:
    case = next_thought_case(generator, 3, 63, dtype, "none", "head")
    log_std = case.arguments["log_std"].clone()
    log_std[:, :7] = torch.tensor([torch.nan, torch.inf, -torch.inf, -100.0, 88.0, 89.0, 0.0])
    broken = case.with_arguments(log_std=log_std)
    assert_close(broken.run()[0], broken.run_reference()[0], "rng")
    assert broken.run()[0][:, 0].isnan().all()


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"hidden": torch.zeros(5, 63, dtype=torch.float16)}, TypeError, "hidden"),
        ({"hidden": torch.zeros(5, 63, 1)}, ValueError, "hidden"),
        ({"next_input": torch.zeros(5, 64)}, ValueError, "next_input"),
        ({"next_input": torch.zeros(5, 63, dtype=torch.bfloat16)}, TypeError, "next_input"),
        ({"next_input": torch.zeros(5, 63, device="meta")}, ValueError, "next_input"),
        ({"thoughts": torch.zeros(5, 63)}, ValueError, "thoughts"),
        ({"thoughts": torch.zeros(4, 4, 63)}, ValueError, "thoughts"),
        ({"weight": torch.zeros(62)}, ValueError, "weight"),
        ({"bias": torch.zeros(63, dtype=torch.bfloat16)}, TypeError, "bias"),
        ({"log_std": torch.zeros(5, 1), "relative": False}, ValueError, "log_std"),
        ({"log_std": torch.zeros(5, 63)}, ValueError, "relative must be False"),
        ({"keys": torch.zeros(4, dtype=torch.int64)}, ValueError, "keys"),
        ({"positions": torch.full((5,), 1 << 20)}, (ValueError, RuntimeError), "position"),
        ({"seed": "1"}, TypeError, "seed"),
        ({"step": 4}, ValueError, "step"),
        ({"step": -1}, ValueError, "step"),
        ({"sigma": -0.1}, ValueError, "sigma"),
        ({"sigma": float("nan")}, ValueError, "sigma"),
        ({"sigma": float("inf")}, ValueError, "sigma"),
        ({"scale": float("inf")}, ValueError, "scale"),
        ({"hidden": torch.zeros(5, 0)}, ValueError, "hidden"),
        ({"norm": "Layer"}, ValueError, "norm"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    generator: torch.Generator, changes: dict, error: type[Exception], name: str
) -> None:
    case = next_thought_case(generator).with_arguments(**changes)
    for function in (next_thought, next_thought_reference):
        with pytest.raises(error, match=name):
            case.run(function)


@pytest.mark.parametrize(("name", "shape"), [("next_input", (63, 5)), ("thoughts", (4, 5, 63))])
def test_written_tensors_must_be_contiguous(
    generator: torch.Generator, name: str, shape: tuple[int, ...]
) -> None:
    arguments = next_thought_case(generator).arguments | {name: torch.zeros(shape).transpose(0, 1)}
    with pytest.raises(ValueError, match=f"{name}.*contiguous"):
        next_thought(**arguments)
