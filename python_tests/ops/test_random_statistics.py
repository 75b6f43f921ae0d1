"""Whether the random values look random: fixed seeds, so a test always says the same."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from latent_ext.ops import keys, philox, sites

STANDARD_ERRORS = 4.5  # exceeded by chance once in 150 000
COUNT = 1 << 18
KOLMOGOROV = 1.95  # sqrt(n) * distance, exceeded by chance once in 1000

NAMES = {  # draws that differ in one argument only
    "reference": {},
    "next key": {"keys": 1},
    "key with another high word": {"keys": 1 << 32},
    "next position": {"positions": 6},
    "fixed position": {"positions": sites.FIXED},
    "next site": {"site": 1},
    "next seed": {"seed": 1},
    "seed with another high word": {"seed": 1 << 32},
}


def draw(name: str, count: int = COUNT) -> torch.Tensor:
    arguments = {"seed": 0, "keys": 0, "positions": 5, "site": 0} | NAMES[name]
    return philox.normals(count=count, **arguments).to(torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_normals_have_the_moments_of_a_standard_normal(name: str) -> None:
    z = draw(name)
    # Variances of the first four sample moments of a standard normal, times n: 1, 2, 15, 96.
    for power, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(float((z**power).mean()) - moment) < STANDARD_ERRORS * math.sqrt(variance / COUNT)


def test_normals_follow_the_normal_distribution() -> None:
    z = draw("reference").sort().values
    steps = torch.arange(COUNT + 1, dtype=torch.float64) / COUNT
    below = torch.special.ndtr(z)
    distance = torch.maximum((steps[1:] - below).max(), (below - steps[:-1]).max())
    assert float(distance) < KOLMOGOROV / math.sqrt(COUNT)


def test_gumbels_follow_the_gumbel_distribution() -> None:
    g = philox.gumbels(0, 0, 5, sites.TOKEN, COUNT).to(torch.float64).sort().values
    steps = torch.arange(COUNT + 1, dtype=torch.float64) / COUNT
    below = torch.exp(-torch.exp(-g))
    distance = torch.maximum((steps[1:] - below).max(), (below - steps[:-1]).max())
    assert float(distance) < KOLMOGOROV / math.sqrt(COUNT)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(NAMES, 2)))
def test_draws_that_differ_in_one_argument_are_uncorrelated(first: str, second: str) -> None:
    a, b = draw(first, COUNT // 8), draw(second, COUNT // 8)
    assert abs(float((a * b).mean())) < STANDARD_ERRORS / math.sqrt(len(a))


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 768])
def test_neighbouring_elements_are_uncorrelated(lag: int) -> None:
    z = draw("reference")
    assert abs(float((z[lag:] * z[:-lag]).mean())) < STANDARD_ERRORS / math.sqrt(COUNT - lag)


def test_trajectories_of_one_question_are_uncorrelated() -> None:
    rows = keys.trajectory_keys(keys.question_key([15496, 995]), 64)
    z = philox.normals(1, rows, 30, sites.NOISE, 4096).to(torch.float64)
    correlation = (z @ z.T / 4096)[torch.ones(64, 64).triu(1) > 0]
    assert float(correlation.abs().max()) < (STANDARD_ERRORS + 1) / math.sqrt(4096)  # the largest of 2016


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_the_keep_rate_is_binomial(p: float) -> None:
    kept = int(philox.keep_mask(0, torch.arange(4), 5, 16, COUNT // 4, p).sum())
    assert abs(kept - COUNT * (1 - p)) < STANDARD_ERRORS * math.sqrt(COUNT * p * (1 - p))


def test_every_bit_of_a_word_is_set_half_the_time() -> None:
    words = philox.random_words(0, 0, 5, 0, COUNT)
    for bit in range(32):
        ones = int((words >> bit & 1).sum())
        assert abs(ones - COUNT / 2) < STANDARD_ERRORS * math.sqrt(COUNT / 4)


def test_masks_of_different_sites_and_positions_are_independent() -> None:
    masks = torch.stack(
        [
            philox.keep_mask(0, 0, position, site, COUNT // 8, 0.5)
            for position in (3, 4)
            for site in (16, 17, 24)
        ]
    ).to(torch.float64)
    agreement = (2 * masks - 1) @ (2 * masks - 1).T / masks.shape[1]
    off_diagonal = agreement[torch.ones_like(agreement).triu(1) > 0]
    assert float(off_diagonal.abs().max()) < STANDARD_ERRORS / math.sqrt(masks.shape[1])
