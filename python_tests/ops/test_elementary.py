"""Accuracy of log, exp, the normal quantile and the Gumbel transform against float64."""

from __future__ import annotations

import numpy
import pytest
import torch

from latent_ext.ops import elementary
from latent_ext.ops.tolerances import tolerance

EDGE_WORDS = [
    0,
    1,
    2,
    0x7FFFFFFF,
    0x80000000,
    0x80000001,
    0xFFFFFFFE,
    0xFFFFFFFF,
    0x7FFFFFBF,
    0x7FFFFFC0,
    0xFFFF,
    0x10000,
]


def words(generator: torch.Generator) -> torch.Tensor:
    random = torch.randint(0, 1 << 32, (200_000,), generator=generator)
    small = torch.arange(10_000)
    return torch.cat(
        [random, small, 0x7FFFFFFF - small, 0x80000000 + small, 0xFFFFFFFF - small, torch.tensor(EDGE_WORDS)]
    )


def assert_accurate(actual: torch.Tensor, exact: torch.Tensor, kind: str) -> None:
    rtol, atol = tolerance(kind, torch.float32)
    torch.testing.assert_close(actual.to(torch.float64), exact, rtol=rtol, atol=atol)


def test_log_is_accurate(generator: torch.Generator) -> None:
    x = torch.exp(torch.rand(100_000, generator=generator) * 100 - 50).clamp_min(
        torch.finfo(torch.float32).tiny
    )
    x = torch.cat([x, torch.linspace(0.5, 2.0, 10_001), torch.tensor([1.0, 2.0**-33, 0.70710678, 1.4142135])])
    assert_accurate(elementary.log(x), torch.log(x.to(torch.float64)), "elementary")


def test_exp_is_accurate(generator: torch.Generator) -> None:
    x = torch.cat(
        [torch.rand(100_000, generator=generator) * 175 - 87, torch.tensor([0.0, -0.0, -87.3, 88.37])]
    )
    exact = torch.exp(x.to(torch.float64))
    assert_accurate(elementary.exp(x).to(torch.float64) / exact, torch.ones_like(exact), "elementary")


def test_the_square_root_is_correctly_rounded(generator: torch.Generator) -> None:
    x = torch.cat([torch.rand(100_000, generator=generator) * 24, torch.tensor([0.0, 1.0, 4.0, 2.0**-33])])
    assert torch.equal(elementary.square_root(x), torch.from_numpy(numpy.sqrt(x.numpy())))


def test_normals_are_the_normal_quantile_of_their_word(generator: torch.Generator) -> None:
    w = words(generator)
    tail = ((w & 0x7FFFFFFF).to(torch.float64) + 0.5) * 2.0**-32
    quantile = -torch.special.ndtri(tail)
    exact = torch.where(w >= 1 << 31, -quantile, quantile)
    assert_accurate(elementary.normal_from_words(w), exact, "normal")


def test_gumbels_are_the_gumbel_quantile_of_their_word(generator: torch.Generator) -> None:
    w = words(generator)
    x = (w.to(torch.float64) + 0.5) * 2.0**-32
    assert_accurate(elementary.gumbel_from_words(w), -torch.log(-torch.log1p(-x)), "gumbel")


def test_normals_are_symmetric_and_finite() -> None:
    w = torch.tensor(EDGE_WORDS)
    z = elementary.normal_from_words(w)
    assert z.isfinite().all()
    assert elementary.gumbel_from_words(w).isfinite().all()
    assert torch.equal(elementary.normal_from_words(w ^ (1 << 31)), -z)


def test_exp_saturates_at_both_ends() -> None:
    low, high = (
        elementary.exp(torch.tensor([-torch.inf, -100.0, -87.3])),
        elementary.exp(torch.tensor([88.5, torch.inf])),
    )
    assert (low == low[2]).all()
    assert (high == torch.inf).all()
    assert elementary.exp(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize("low", [0, 0x7FFF0000, 0x80000000])
def test_normals_fall_as_the_tail_grows(low: int) -> None:
    z = elementary.normal_from_words(torch.arange(low, low + 0x10000, 0x40))
    steps = z.diff() if low < 1 << 31 else -z.diff()
    # Float32 rounding may hold neighbouring words level or swap them by the error of the table, never more.
    assert float(steps.max()) <= tolerance("normal", torch.float32).atol
