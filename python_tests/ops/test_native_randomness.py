"""The compiled generator against the PyTorch one: the same bits at every CPU level."""

from __future__ import annotations

import numpy
import pytest
import torch
from op_cases import random_keys

import latent_ext._native as _native
from latent_ext.ops import elementary, philox, sites
from latent_ext.ops.tolerances import assert_close

LEVELS = _native.supported_capabilities()
COUNTS = (0, 1, 15, 16, 17, 63, 1023, 4096)

pytestmark = pytest.mark.usefixtures("restored_capability")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, restored_capability: None) -> str:
    _native.set_cpu_capability(request.param)
    assert _native.cpu_capability() == request.param
    return request.param


def draws(generator: torch.Generator) -> list[tuple[int, int, int, int]]:
    """Seeds, keys, positions and sites: random ones and the ends of each range."""
    random = [
        (
            int(random_keys(generator, 1)),
            int(random_keys(generator, 1)),
            int(torch.randint(0, sites.FIXED, (), generator=generator)),
            int(torch.randint(0, sites.SITE_COUNT, (), generator=generator)),
        )
        for _ in range(4)
    ]
    return [*random, (0, 0, 0, 0), (-1, -1, sites.FIXED, sites.SITE_COUNT - 1), (-(1 << 63), 1 << 62, 1, 1)]


def assert_same_bits(actual: numpy.ndarray, expected: torch.Tensor) -> None:
    assert_close(torch.from_numpy(actual), expected, "rng", storage=torch.float32)
    if expected.dtype == torch.float32:  # -0 and +0 differ in a bit
        assert torch.equal(torch.from_numpy(actual).view(torch.int32), expected.view(torch.int32))


def test_the_active_level_is_a_supported_one() -> None:
    assert "default" in LEVELS
    assert _native.cpu_capability() in LEVELS


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises((ValueError, RuntimeError), match="avx9000"):
        _native.set_cpu_capability("avx9000")


@pytest.mark.parametrize("count", COUNTS)
def test_words_normals_and_gumbels_are_the_same_bits(
    generator: torch.Generator, level: str, count: int
) -> None:
    for seed, key, position, site in draws(generator):
        words = torch.from_numpy(
            _native.random_words(seed, key, position, site, 0, count).astype(numpy.int64)
        )
        assert torch.equal(words, philox.random_words(seed, key, position, site, count))
        assert_same_bits(
            _native.normals(seed, key, position, site, count),
            philox.normals(seed, key, position, site, count),
        )
        assert_same_bits(
            _native.gumbels(seed, key, position, site, count),
            philox.gumbels(seed, key, position, site, count),
        )


def test_words_of_far_elements_are_the_same_bits(generator: torch.Generator, level: str) -> None:
    for first in (32, 1 << 20, (1 << 32) - 32, sites.ELEMENT_COUNT - 64):
        for seed, key, position, site in draws(generator):
            words = torch.from_numpy(
                _native.random_words(seed, key, position, site, first, 64).astype(numpy.int64)
            )
            elements = torch.arange(first, first + 64)
            assert torch.equal(words, philox.random_words(seed, key, position, site, elements))


@pytest.mark.parametrize("p", [0.0, 1e-12, 2.0**-32, 0.1, 0.5, 0.999999, 1.0 - 2.0**-40])
def test_masks_are_the_same_bits(generator: torch.Generator, level: str, p: float) -> None:
    for seed, key, position, site in draws(generator):
        mask = _native.keep_mask(seed, key, position, site, 1023, p)
        assert numpy.array_equal(mask, philox.keep_mask(seed, key, position, site, 1023, p).numpy())


def test_log_and_exp_are_the_same_bits(generator: torch.Generator, level: str) -> None:
    x = torch.exp(torch.rand(10_001, generator=generator) * 100 - 50)
    assert_same_bits(_native.log(x.numpy()), elementary.log(x))
    y = torch.cat(
        [torch.rand(10_000, generator=generator) * 240 - 120, torch.tensor([0.0, -0.0, -87.3, 88.7, -1e30])]
    )
    assert_same_bits(_native.exp(y.numpy()), elementary.exp(y))
