"""Counter-based random numbers in plain PyTorch: the reference of every mask, Gaussian and Gumbel value.

Nothing here has a state. A number is Philox4x32-10 of (run seed, trajectory key, site, position, element):

    key      = (seed low, seed high)
    counter  = (element >> 2, site << 20 | position, trajectory key low, trajectory key high)
    word     = output[element & 3]

so it depends neither on the batch, the device, the number of threads nor on what was drawn before. 64-bit
seeds and keys travel as int64 tensors that hold the bits (two's complement).
`csrc/include/latent_ext/philox.h` computes the same bits.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC11 (Philox4x32 with ten rounds and the constants of Random123).
"""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops import elementary, sites
from latent_ext.ops.arguments import as_int64, check_range

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(key_words: tuple[Tensor, Tensor], counter_words: Words) -> Words:
    """Philox4x32-10.

    Args:
        key_words: two int64 tensors, values in [0, 2**32).
        counter_words: four int64 tensors, values in [0, 2**32). All six broadcast against each other.

    Returns:
        Four int64 tensors of the broadcast shape, values in [0, 2**32).
    """
    k0, k1 = key_words
    c0, c1, c2, c3 = counter_words
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2**64, so the masks below see the exact high and low words.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _WORD) ^ c1 ^ k0,
            product1 & _WORD,
            ((product0 >> 32) & _WORD) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0 = (k0 + _KEY_STEPS[0]) & _WORD
        k1 = (k1 + _KEY_STEPS[1]) & _WORD
    c0, c1, c2, c3 = torch.broadcast_tensors(c0, c1, c2, c3)
    return c0, c1, c2, c3


def split_words(value: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high 32-bit words of int64 bits, as int64 in [0, 2**32)."""
    return value & _WORD, (value >> 32) & _WORD


def random_words(
    seed: int | Tensor,
    keys: int | Tensor,
    positions: int | Tensor,
    site: int,
    elements: int | Tensor,
) -> Tensor:
    """Raw 32-bit words.

    Args:
        seed: the 64-bit run seed, an int or an int64 tensor with one element.
        keys: int64 [rows] trajectory keys (any leading shape; an int is a single row without a dimension).
        positions: int64 [rows] or an int, broadcast against `keys`; in [0, 0xFFFFF), or `sites.FIXED`
            (0xFFFFF).
        site: in [0, 4096), see `latent_ext.ops.sites`.
        elements: the number n of elements, drawn for 0 .. n-1; or an int64 tensor [n] (or [rows, n]) of
            elements in [0, 2**34).

    Returns:
        int64 [rows, n], values in [0, 2**32), on the device of `keys`.

    Raises:
        TypeError: for a tensor that is not int64.
        ValueError: if seed has more than one element, or site, positions or elements are out of range.
    """
    device = next((value.device for value in (keys, positions, seed) if isinstance(value, Tensor)), None)
    key = as_int64(keys, device, "keys")
    position = as_int64(positions, device, "positions")
    run_seed = as_int64(seed, device, "seed")
    if run_seed.numel() != 1:
        raise ValueError(f"seed must have one element, got shape {tuple(run_seed.shape)}")
    if not 0 <= site < sites.SITE_COUNT:
        raise ValueError(f"site must be in [0, {sites.SITE_COUNT}), got {site}")
    check_range(position, 0, sites.FIXED + 1, "positions")
    key_low, key_high = split_words(key.unsqueeze(-1))
    place = (site << sites.POSITION_BITS) | position.unsqueeze(-1)
    seed_words = split_words(run_seed.reshape(()))

    if isinstance(elements, Tensor):
        element = as_int64(elements, name="elements")
        check_range(element, 0, sites.ELEMENT_COUNT, "elements")
        words = philox(seed_words, (element >> 2, place, key_low, key_high))
        lane = (element & 3).expand(words[0].shape)
        return torch.stack(words, dim=-1).gather(-1, lane.unsqueeze(-1)).squeeze(-1)

    if not 0 <= elements <= sites.ELEMENT_COUNT:
        raise ValueError(f"elements must be in [0, {sites.ELEMENT_COUNT}], got {elements}")
    blocks = torch.arange((elements + 3) // 4, device=key.device)
    words = philox(seed_words, (blocks, place, key_low, key_high))
    return torch.stack(words, dim=-1).flatten(-2)[..., :elements]


def drop_threshold(p: float) -> int:
    """A value is dropped when its word is below this: ``floor(p * 2**32 + 0.5)``, exact to 2**-32.

    Raises:
        ValueError: if p is not in [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p must be in [0, 1), got {p}")
    return int(p * 4294967296.0 + 0.5)


def keep_mask(
    seed: int | Tensor, keys: int | Tensor, positions: int | Tensor, site: int, count: int | Tensor, p: float
) -> Tensor:
    """Dropout mask: True where the value is kept; kept values are to be multiplied by ``1 / (1 - p)``
    (`keep_scale`).

    Args:
        seed, keys, positions, site: see `random_words`.
        count: the number of elements (or their int64 tensor), as `elements` of `random_words`.
        p: probability of dropping, in [0, 1). Zero draws nothing.

    Returns:
        bool [rows, count].

    Raises:
        TypeError, ValueError: as `random_words`, and if p is out of range.
    """
    threshold = drop_threshold(p)
    return random_words(seed, keys, positions, site, count) >= threshold


def keep_scale(p: float) -> float:
    """Factor of kept values, ``1 / (1 - p)`` in double precision, to be rounded once to float32."""
    drop_threshold(p)
    return 1.0 / (1.0 - p)


def dropout(
    x: Tensor, seed: int | Tensor, keys: int | Tensor, positions: int | Tensor, site: int, p: float
) -> Tensor:
    """Dropout of x [rows, n] by `keep_mask`: kept values times `keep_scale`, dropped values +0 (even where x
    is NaN).

    Returns:
        float32 [rows, n]; the values of x itself when p is 0.

    Raises:
        TypeError, ValueError: as `keep_mask`.
    """
    if p == 0:
        return x.to(torch.float32)
    kept = keep_mask(seed, keys, positions, site, x.shape[-1], p)
    return torch.where(kept, x.to(torch.float32) * keep_scale(p), 0.0)


def normals(
    seed: int | Tensor, keys: int | Tensor, positions: int | Tensor, site: int, count: int | Tensor
) -> Tensor:
    """Standard normal values, float32 [rows, count]; arguments as `random_words`, source as `elementary`."""
    return elementary.normal_from_words(random_words(seed, keys, positions, site, count))


def gumbels(
    seed: int | Tensor, keys: int | Tensor, positions: int | Tensor, site: int, count: int | Tensor
) -> Tensor:
    """Standard Gumbel values, float32 [rows, count]; arguments as `random_words`."""
    return elementary.gumbel_from_words(random_words(seed, keys, positions, site, count))
