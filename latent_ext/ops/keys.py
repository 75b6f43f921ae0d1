"""Trajectory keys: 64-bit names of questions, trajectories, beam children and rollouts.

A key depends only on the question and on the path that led to the trajectory, so the first 16 of 64
trajectories are the 16 of a smaller run, and best-of-N is a beam search with one candidate:

    question key   = first 64 bits of BLAKE2b over the prompt ids
    trajectory n   = derive(question key, n, 0, ROOT)
    child c at t   = the parent's own key for c = 0, else derive(key, t, c, BEAM)
    rollout m at t = derive(key, t, m, ROLLOUT)

`derive` is Philox4x32-10 with the parent as its key (Salmon et al., "Parallel random numbers: as easy as 1,
2, 3", SC11). Keys are int64 (the 64 bits in two's complement). With only ints given, a function returns an
int; with a tensor among its arguments it returns an int64 tensor of the broadcast shape.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from latent_ext.ops.arguments import as_int64, check_range, to_signed
from latent_ext.ops.philox import philox, split_words

ROOT = 1
BEAM = 2
ROLLOUT = 3


def question_key(ids: Sequence[int] | Tensor) -> int:
    """Key of a question.

    Args:
        ids: the real prompt token ids, without padding: a sequence of ints or an integer tensor [prompt].

    Returns:
        The first 8 bytes (little endian) of the 64-byte BLAKE2b digest of the ids as little endian int64, as
        a signed 64-bit int.

    Raises:
        TypeError: if `ids` is a tensor of a non-integer dtype.
        ValueError: if `ids` is not one-dimensional.
    """
    if isinstance(ids, Tensor):
        if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
            raise TypeError(f"ids must hold integers, got {ids.dtype}")
        if ids.dim() != 1:
            raise ValueError(f"ids must have shape [prompt], got {tuple(ids.shape)}")
        ids = ids.tolist()
    digest = hashlib.blake2b(struct.pack(f"<{len(ids)}q", *ids)).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


@overload
def derive(key: int, a: int, b: int, tag: int) -> int: ...
@overload
def derive(key: Tensor, a: int | Tensor, b: int | Tensor, tag: int) -> Tensor: ...
@overload
def derive(key: int | Tensor, a: int | Tensor, b: int | Tensor, tag: int) -> int | Tensor: ...
def derive(key: int | Tensor, a: int | Tensor, b: int | Tensor, tag: int) -> int | Tensor:
    """The key derived from `key` by the two numbers a and b under a tag.

    Args:
        key: int or int64 tensor, the parent key.
        a, b: ints or int64 tensors in [0, 2**32), broadcast against `key`.
        tag: `ROOT`, `BEAM` or `ROLLOUT`.

    Returns:
        int, or int64 tensor of the broadcast shape: words 0 (low) and 1 (high) of Philox4x32-10 with the
            parent as key
        and counter (a, b, tag, 0).

    Raises:
        TypeError: for a tensor that is not int64.
        ValueError: if a, b or tag is not in [0, 2**32).
    """
    if not 0 <= tag < 1 << 32:
        raise ValueError(f"tag must be in [0, 2**32), got {tag}")
    given = [value for value in (key, a, b) if isinstance(value, Tensor)]
    device = given[0].device if given else None
    parent, first, second = as_int64(key, device, "key"), as_int64(a, device, "a"), as_int64(b, device, "b")
    check_range(first, 0, 1 << 32, "a")
    check_range(second, 0, 1 << 32, "b")
    fixed = torch.zeros((), dtype=torch.int64, device=parent.device)
    low, high, _, _ = philox(split_words(parent), (first, second, fixed + tag, fixed))
    derived = low | (high << 32)
    return derived if given else int(derived.item())


@overload
def trajectory_key(question_key: int, n: int) -> int: ...
@overload
def trajectory_key(question_key: Tensor, n: int | Tensor) -> Tensor: ...
@overload
def trajectory_key(question_key: int | Tensor, n: int | Tensor) -> int | Tensor: ...
def trajectory_key(question_key: int | Tensor, n: int | Tensor) -> int | Tensor:
    """Key of trajectory n (0, 1, ...) of a question; arguments and errors as `derive`."""
    return derive(question_key, n, 0, ROOT)


def trajectory_keys(
    question_key: int | Tensor, count: int, device: torch.device | str | None = None
) -> Tensor:
    """Keys of the first `count` trajectories.

    Args:
        question_key: int, or int64 tensor of any shape.
        count: number of trajectories N, at least 0.
        device: of the result; by default the device of `question_key`, or the CPU for an int.

    Returns:
        int64 [N] for an int, else [*question_key.shape, N]. The first keys of a larger N are those of a
        smaller N.

    Raises:
        TypeError: if `question_key` is a tensor that is not int64.
        ValueError: if `count` is negative.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    key = as_int64(question_key, name="question_key").to(device=device)
    return derive(key.unsqueeze(-1), torch.arange(count, device=key.device), 0, ROOT)


@overload
def child_key(key: int, step: int, child: int) -> int: ...
@overload
def child_key(key: Tensor, step: int | Tensor, child: int | Tensor) -> Tensor: ...
@overload
def child_key(key: int | Tensor, step: int | Tensor, child: int | Tensor) -> int | Tensor: ...
def child_key(key: int | Tensor, step: int | Tensor, child: int | Tensor) -> int | Tensor:
    """Key of beam candidate `child` that leaves `key` at latent step `step`; child 0 keeps its parent's key.

    Arguments broadcast; dtypes, result and errors as `derive`.
    """
    derived = derive(key, step, child, BEAM)
    if isinstance(derived, int):
        return to_signed(key) if isinstance(key, int) and child == 0 else derived
    parent = as_int64(key, derived.device, "key")
    return torch.where(as_int64(child, derived.device, "child") == 0, parent, derived)


@overload
def rollout_key(key: int, step: int, rollout: int) -> int: ...
@overload
def rollout_key(key: Tensor, step: int | Tensor, rollout: int | Tensor) -> Tensor: ...
@overload
def rollout_key(key: int | Tensor, step: int | Tensor, rollout: int | Tensor) -> int | Tensor: ...
def rollout_key(key: int | Tensor, step: int | Tensor, rollout: int | Tensor) -> int | Tensor:
    """Key of rollout `rollout` that continues `key` from latent step `step`; arguments as `derive`."""
    return derive(key, step, rollout, ROLLOUT)
