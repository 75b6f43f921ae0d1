"""Checks that every op's Python face shares: dtypes, shapes, devices, 64-bit ints, ranges."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_ext.ops.sites import FIXED, SITE_COUNT


def to_signed(value: int, name: str = "value") -> int:
    """The int64 that holds the 64 bits of `value`, which may be given signed or unsigned.

    Raises:
        ValueError: if `value` does not fit in 64 bits.
    """
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{name} must fit in 64 bits, got {value}")
    return value - (1 << 64) if value >= 1 << 63 else value


def as_int64(value: int | Tensor, device: torch.device | None = None, name: str = "value") -> Tensor:
    """An int64 tensor from an int (signed or unsigned 64 bits, becomes 0-dimensional) or an int64 tensor (as
    it is).

    Raises:
        TypeError: if `value` is neither an int nor an int64 tensor.
        ValueError: if an int does not fit in 64 bits.
    """
    if isinstance(value, Tensor):
        if value.dtype != torch.int64:
            raise TypeError(f"{name} must be an int64 tensor, got {value.dtype}")
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int or an int64 tensor, got {type(value).__name__}")
    return torch.tensor(to_signed(value, name), dtype=torch.int64, device=device)


def check_range(values: Tensor, low: int, high: int, name: str) -> None:
    """Raises ValueError unless low <= values < high everywhere (on CUDA a device assert, without waiting)."""
    if torch.compiler.is_compiling() or values.numel() == 0:
        return
    inside = ((values >= low) & (values < high)).all()
    if values.is_cuda:
        torch._assert_async(inside, f"{name} must be in [{low}, {high})")  # no synchronisation, capturable
    elif not inside:
        raise ValueError(
            f"{name} must be in [{low}, {high}), got {values.min().item()} .. {values.max().item()}"
        )


def check_inference(op: str, **tensors: Tensor | None) -> None:
    """Raises RuntimeError if grad mode is on and a tensor requires grad: the ops have no gradient."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise RuntimeError(
                f"{op} is for inference and has no gradient, but {name} requires grad: "
                "call it under torch.no_grad() or torch.inference_mode(), or detach the tensor"
            )


def check_storage(name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` is float32 or bfloat16, the storage dtypes of the ops."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"{name} must be float32 or bfloat16, got {tensor.dtype}")


def check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], axes: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Raises TypeError or ValueError unless `tensor` has this dtype, device and shape (named by `axes`)."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, got {tensor.device}")
    if tensor.dim() != len(shape) or tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {axes} = {list(shape)}, got {list(tensor.shape)}")


def check_packed(name: str, model: Tensor) -> None:
    """Raises TypeError unless `model` is a tensor of bytes."""
    if not isinstance(model, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(model).__name__}")
    if model.dtype != torch.uint8:
        raise TypeError(f"{name} must be the uint8 bytes of latent_ext.models.packed.pack, got {model.dtype}")


def check_rank(name: str, tensor: Tensor, axes: str) -> None:
    """Raises ValueError unless `tensor` has as many dimensions as `axes`, such as "[rows, hidden]", names."""
    if tensor.dim() != axes.count(",") + 1:
        raise ValueError(f"{name} must have shape {axes}, got {list(tensor.shape)}")


def check_mutable(name: str, tensor: Tensor) -> None:
    """Raises ValueError unless `tensor`, which the op writes in place, is contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} is written in place and must be contiguous, got strides {list(tensor.stride())}"
        )


def check_width(name: str, tensor: Tensor) -> None:
    """Raises ValueError unless the last axis of `tensor`, over which an op reduces, has an element."""
    if tensor.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one element per row, got shape {list(tensor.shape)}")


def check_finite(name: str, value: float, low: float = -math.inf) -> None:
    """Raises ValueError unless `value` is finite and at least `low`."""
    if not (math.isfinite(value) and value >= low):
        raise ValueError(
            f"{name} must be finite{'' if math.isinf(low) else f' and at least {low:g}'}, got {value}"
        )


def check_site(site: int) -> None:
    """Raises ValueError unless `site` is in [0, 4096)."""
    if not 0 <= site < SITE_COUNT:
        raise ValueError(f"site must be in [0, {SITE_COUNT}), got {site}")


def row_randomness(
    rows: int, device: torch.device, keys: Tensor, positions: int | Tensor, seed: int | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and positions as contiguous int64 [rows] and the seed as int64 [1], all on `device`.

    Args:
        rows: number of rows.
        device: where the op runs.
        keys: int64 [rows].
        positions: int64 [rows], or an int for all rows.
        seed: int (signed or unsigned 64 bits) or int64 tensor with one element, already on `device`.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong dtype, shape or device.
    """
    check_tensor("keys", keys, (rows,), "[rows]", torch.int64, device)
    if isinstance(positions, Tensor):
        check_tensor("positions", positions, (rows,), "[rows]", torch.int64, device)
        position = positions.contiguous()
    else:
        if not 0 <= positions <= FIXED:
            raise ValueError(f"positions must be in [0, {FIXED}), or {FIXED} (fixed), got {positions}")
        position = torch.full((rows,), positions, dtype=torch.int64, device=device)
    run_seed = as_int64(seed, device, "seed")
    if run_seed.numel() != 1:
        raise ValueError(f"seed must have one element, got shape {list(run_seed.shape)}")
    if run_seed.device != device:
        raise ValueError(f"seed must be on {device}, got {run_seed.device}")
    return keys.contiguous(), position, run_seed.reshape(1).contiguous()
