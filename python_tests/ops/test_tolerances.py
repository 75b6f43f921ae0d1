"""The table of tolerances and the comparison that reads it."""

from __future__ import annotations

import pytest
import torch

from latent_ext.ops.tolerances import TOLERANCES, assert_close, tolerance


def test_random_values_have_no_tolerance() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert tolerance("rng", dtype) == (0.0, 0.0)


def test_unknown_kinds_and_dtypes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .*'nrm'"):
        tolerance("nrm", torch.float32)
    with pytest.raises(ValueError, match="'norm' has no tolerance for"):
        tolerance("norm", torch.float16)


@pytest.mark.parametrize("kind", TOLERANCES)
def test_a_difference_beyond_the_tolerance_fails(kind: str) -> None:
    dtype = next(iter(TOLERANCES[kind]))
    expected = torch.ones(4, dtype=dtype)
    rtol, atol = tolerance(kind, dtype)
    assert_close(expected * (1 + (rtol + atol) / 2), expected, kind)
    with pytest.raises(AssertionError, match=kind):
        assert_close(expected * (1 + 2 * (rtol + atol) + 1e-6), expected, kind)


def test_nan_agrees_with_nan_only() -> None:
    expected = torch.tensor([torch.nan, torch.inf, 1.0])
    assert_close(expected.clone(), expected, "thought")
    with pytest.raises(AssertionError):
        assert_close(torch.tensor([0.0, torch.inf, 1.0]), expected, "thought")


def test_thoughts_are_compared_in_units_of_their_size() -> None:
    expected = torch.tensor([100.0, 0.0])
    shift = 50 * tolerance("thought", torch.float32).atol
    assert_close(expected + shift, expected, "thought")
    with pytest.raises(AssertionError):
        assert_close(expected + shift, expected, "norm")
