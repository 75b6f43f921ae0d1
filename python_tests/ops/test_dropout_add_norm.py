"""dropout_add_norm: mask and residual exact, norm to the table, odd shapes, NaN, extremes."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, HIDDEN, ROWS, dropout_add_norm_case

from latent_ext.ops import dropout_add_norm, dropout_add_norm_reference, philox
from latent_ext.ops.tolerances import assert_close


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("rows", ROWS)
def test_agrees_with_the_reference(
    generator: torch.Generator, rows: int, hidden: int, norm: str, dtype: torch.dtype
) -> None:
    case = dropout_add_norm_case(generator, rows, hidden, dtype, norm)
    residual, normed = case.run()
    expected_residual, expected_normed = case.run_reference()
    assert_close(residual, expected_residual, "rng")
    assert_close(normed, expected_normed, "norm")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 1e-12, 0.1, 0.5, 0.999, 1.0 - 2.0**-40])
def test_every_drop_probability_agrees_with_the_reference(
    generator: torch.Generator, p: float, dtype: torch.dtype
) -> None:
    case = dropout_add_norm_case(generator, 17, 129, dtype, p=p)
    assert_close(case.run()[0], case.run_reference()[0], "rng")


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_norm_without_parameters_agrees_with_the_reference(generator: torch.Generator, norm: str) -> None:
    case = dropout_add_norm_case(generator, 3, 63, norm=norm, affine=False)
    assert_close(case.run()[1], case.run_reference()[1], "norm")


def test_the_mask_is_the_one_of_philox(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 5, 1023, norm="none", p=0.4)
    ones = case.with_arguments(branch=torch.ones(5, 1023), residual=torch.zeros(5, 1023))
    a = case.arguments
    kept = philox.keep_mask(a["seed"], a["keys"], a["positions"], a["site"], 1023, 0.4)
    assert torch.equal(ones.run()[0] != 0, kept)


def test_without_dropout_the_branch_is_added_as_it_is(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 3, 63, p=0.0)
    assert torch.equal(case.run()[0], case.arguments["branch"] + case.arguments["residual"])


def test_the_norm_is_taken_from_the_rounded_residual(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 17, 768, torch.bfloat16, "layer")
    residual, normed = case.run()
    a = case.arguments
    expected = torch.nn.functional.layer_norm(
        residual.float(), (768,), a["weight"].float(), a["bias"].float(), a["eps"]
    ).bfloat16()
    assert_close(normed, expected, "norm")


def test_a_constant_row_has_no_variance_and_becomes_the_bias(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 3, 64, p=0.0)
    case = case.with_arguments(branch=torch.zeros(3, 64), residual=torch.full((3, 64), 7.0))
    assert torch.equal(case.run()[1], case.arguments["bias"].expand(3, 64))


def test_a_row_far_from_zero_keeps_its_variance(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 3, 768, p=0.0)
    case = case.with_arguments(residual=case.arguments["residual"] + 4096.0)
    residual, normed = case.run()
    a = case.arguments
    weight, bias = a["weight"].double(), a["bias"].double()
    exact = torch.nn.functional.layer_norm(residual.double(), (768,), weight, bias, a["eps"])
    assert_close(normed, exact.float(), "norm_far_from_zero")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_stay_in_their_row(
    generator: torch.Generator, value: float, dtype: torch.dtype
) -> None:
    case = dropout_add_norm_case(generator, 5, 63, dtype)
    clean = case.run()
    branch = case.arguments["branch"].clone()
    branch[2] = value
    broken = case.with_arguments(branch=branch)
    for actual, expected in zip(broken.run(), clean, strict=True):
        assert torch.equal(actual[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
        assert actual[2].isnan().any() or actual[2].isinf().any()
    assert_close(broken.run()[0], broken.run_reference()[0], "rng")
    assert_close(broken.run()[1], broken.run_reference()[1], "norm")


def test_a_dropped_nan_is_dropped(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 3, 200, p=0.5)
    a = case.arguments
    kept = philox.keep_mask(a["seed"], a["keys"], a["positions"], a["site"], 200, 0.5)
    broken = case.with_arguments(branch=torch.where(kept, a["branch"], torch.nan))
    assert torch.equal(broken.run()[0], case.run()[0])


def test_the_outputs_do_not_share_memory_with_each_other_or_the_inputs(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 3, 16, norm="none", p=0.0)
    residual, normed = case.run()
    pointers = {
        t.data_ptr() for t in (residual, normed, case.arguments["branch"], case.arguments["residual"])
    }
    assert len(pointers) == 4
    assert torch.equal(residual, normed)


def test_inputs_of_any_layout_are_accepted(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 5, 63)
    expected = case.run()
    a = case.arguments
    strided = case.with_arguments(
        branch=a["branch"].T.contiguous().T,
        weight=a["weight"].repeat_interleave(2)[::2],
        keys=a["keys"].repeat_interleave(2)[::2],
    )
    for actual, wanted in zip(strided.run(), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_one_position_serves_all_rows(generator: torch.Generator) -> None:
    case = dropout_add_norm_case(generator, 5, 63)
    spelled = case.with_arguments(positions=torch.full((5,), 42))
    assert torch.equal(case.with_arguments(positions=42).run()[0], spelled.run()[0])


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"branch": torch.zeros(5, 63, dtype=torch.float64)}, TypeError, "branch"),
        ({"branch": torch.zeros(5)}, ValueError, "branch"),
        ({"residual": torch.zeros(5, 63, dtype=torch.bfloat16)}, TypeError, "residual"),
        ({"residual": torch.zeros(4, 63)}, ValueError, "residual"),
        ({"residual": torch.zeros(5, 63, device="meta")}, ValueError, "residual"),
        ({"weight": torch.zeros(64)}, ValueError, "weight"),
        ({"weight": torch.zeros(63, dtype=torch.bfloat16)}, TypeError, "weight"),
        ({"bias": torch.zeros(1, 63)}, ValueError, "bias"),
        ({"keys": torch.zeros(5)}, TypeError, "keys"),
        ({"keys": torch.zeros(6, dtype=torch.int64)}, ValueError, "keys"),
        ({"positions": torch.zeros(5, dtype=torch.int32)}, TypeError, "positions"),
        ({"positions": torch.zeros(1, dtype=torch.int64)}, ValueError, "positions"),
        ({"positions": -1}, ValueError, "positions"),
        ({"positions": torch.tensor([0, 1, 2, 3, 1 << 20])}, (ValueError, RuntimeError), "position"),
        ({"positions": torch.tensor([0, 1, 2, 3, -1])}, (ValueError, RuntimeError), "position"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"seed": torch.zeros(2, dtype=torch.int64)}, ValueError, "seed"),
        ({"seed": 1 << 64}, ValueError, "seed"),
        ({"site": 4096}, ValueError, "site"),
        ({"site": -1}, ValueError, "site"),
        ({"p": 1.0}, ValueError, "p must"),
        ({"p": float("nan")}, ValueError, "p must"),
        ({"eps": -1.0}, ValueError, "eps"),
        ({"eps": float("inf")}, ValueError, "eps"),
        ({"branch": torch.zeros(5, 0)}, ValueError, "branch"),
        ({"norm": "batch"}, ValueError, "norm.*'batch'"),
        ({"norm": "rms"}, ValueError, "bias must be None"),
        ({"norm": "none", "bias": None}, ValueError, "weight must be None"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    generator: torch.Generator, changes: dict, error: type[Exception], name: str
) -> None:
    case = dropout_add_norm_case(generator).with_arguments(**changes)
    for function in (dropout_add_norm, dropout_add_norm_reference):
        with pytest.raises(error, match=name):
            case.run(function)
