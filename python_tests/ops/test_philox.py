"""Philox4x32-10 and the counter layout, against published vectors and an implementation with Python ints."""

from __future__ import annotations

import pytest
import torch
from op_cases import random_keys

from latent_ext.ops import philox, sites

# kat_vectors of Random123: counter, key, output of philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def scalar_word(seed: int, key: int, position: int, site: int, element: int) -> int:
    """One word by the definition, with Python ints."""
    mask = 0xFFFFFFFF
    k0, k1 = seed & mask, seed >> 32 & mask
    c0, c1, c2, c3 = element >> 2, site << 20 | position, key & mask, key >> 32 & mask
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return (c0, c1, c2, c3)[element & 3]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_published_vectors_are_reproduced(counter: list[int], key: list[int], output: list[int]) -> None:
    k0, k1 = torch.tensor(key)
    c0, c1, c2, c3 = torch.tensor(counter)
    assert [int(word) for word in philox.philox((k0, k1), (c0, c1, c2, c3))] == output


def test_words_follow_the_counter_layout(generator: torch.Generator) -> None:
    keys, seed = random_keys(generator, 3), int(random_keys(generator, 1))
    positions = torch.tensor([0, 12345, sites.FIXED])
    elements = torch.tensor([0, 1, 2, 3, 5, 1023, (1 << 20) + 7, sites.ELEMENT_COUNT - 1])
    for site in (0, 1, sites.SITE_COUNT - 1):
        words = philox.random_words(seed, keys, positions, site, elements)
        for row in range(3):
            expected = [
                scalar_word(seed, int(keys[row]), int(positions[row]), site, e) for e in elements.tolist()
            ]
            assert words[row].tolist() == expected


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1023])
def test_a_count_means_the_first_elements(generator: torch.Generator, count: int) -> None:
    keys = random_keys(generator, 3)
    words = philox.random_words(11, keys, 7, 5, count)
    assert words.shape == (3, count)
    assert torch.equal(words, philox.random_words(11, keys, 7, 5, torch.arange(count)))


def test_signed_and_unsigned_spellings_of_a_seed_and_a_key_agree() -> None:
    signed = philox.random_words(-1, torch.tensor([-2]), 3, 0, 8)
    assert torch.equal(signed, philox.random_words((1 << 64) - 1, (1 << 64) - 2, 3, 0, 8).unsqueeze(0))
    assert torch.equal(
        signed, philox.random_words(torch.tensor([-1]), torch.tensor([-2]), torch.tensor([3]), 0, 8)
    )


def test_a_row_does_not_depend_on_other_rows(generator: torch.Generator) -> None:
    keys, positions = random_keys(generator, 9), torch.arange(9)
    together = philox.normals(5, keys, positions, 0, 33)
    for row in range(9):
        assert torch.equal(philox.normals(5, keys[row], positions[row], 0, 33), together[row])


def test_leading_shapes_broadcast(generator: torch.Generator) -> None:
    keys = random_keys(generator, 6).reshape(2, 3)
    words = philox.random_words(1, keys, torch.arange(3), 0, 5)
    assert words.shape == (2, 3, 5)
    assert torch.equal(words[1], philox.random_words(1, keys[1], torch.arange(3), 0, 5))


def test_nothing_is_dropped_at_zero_and_everything_near_one(generator: torch.Generator) -> None:
    keys = random_keys(generator, 2)
    assert philox.keep_mask(1, keys, 0, 16, 100, 0.0).all()
    assert not philox.keep_mask(1, keys, 0, 16, 100, 1.0 - 2.0**-40).any()


def test_dropout_scales_kept_values_and_zeroes_dropped_ones(generator: torch.Generator) -> None:
    keys, x = random_keys(generator, 4), torch.randn((4, 50), generator=generator)
    x[:, ::7] = torch.nan
    kept = philox.keep_mask(3, keys, 2, 17, 50, 0.25)
    dropped = philox.dropout(x, 3, keys, 2, 17, 0.25)
    assert torch.equal(dropped[~kept], torch.zeros(int((~kept).sum())))
    assert torch.equal(dropped[kept].nan_to_num(), (x[kept] * (1 / 0.75)).nan_to_num())
    assert torch.equal(philox.dropout(x, 3, keys, 2, 17, 0.0).nan_to_num(), x.nan_to_num())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"site": -1}, "site"),
        ({"site": sites.SITE_COUNT}, "site"),
        ({"positions": -1}, "positions"),
        ({"positions": torch.tensor([0, sites.FIXED + 1])}, "positions"),
        ({"elements": sites.ELEMENT_COUNT + 1}, "elements"),
        ({"elements": torch.tensor([sites.ELEMENT_COUNT])}, "elements"),
        ({"elements": torch.tensor([-1])}, "elements"),
        ({"seed": 1 << 64}, "seed"),
        ({"seed": torch.tensor([1, 2])}, "seed"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments: dict, name: str) -> None:
    valid = {"seed": 1, "keys": torch.tensor([1, 2]), "positions": 0, "site": 0, "elements": 4}
    with pytest.raises(ValueError, match=name):
        philox.random_words(**(valid | arguments))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"keys": torch.tensor([1.0])}, "keys"),
        ({"positions": torch.tensor([1], dtype=torch.int32)}, "positions"),
        ({"seed": 1.0}, "seed"),
        ({"elements": torch.tensor([1.0])}, "elements"),
    ],
)
def test_wrong_types_are_refused_by_name(arguments: dict, name: str) -> None:
    valid = {"seed": 1, "keys": torch.tensor([1, 2]), "positions": 0, "site": 0, "elements": 4}
    with pytest.raises(TypeError, match=name):
        philox.random_words(**(valid | arguments))


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0, float("nan")])
def test_a_drop_probability_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="p must be"):
        philox.keep_mask(1, torch.tensor([1]), 0, 16, 4, p)
