"""From the last hidden state to the next thought: optional norm, scale and noise, written where it will be
read."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops import elementary, sites
from latent_ext.ops.arguments import (
    check_finite,
    check_inference,
    check_mutable,
    check_rank,
    check_storage,
    check_tensor,
    check_width,
    row_randomness,
)
from latent_ext.ops.norms import check_norm, norm_reference
from latent_ext.ops.philox import normals


def next_thought(
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    log_std: Tensor | None,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    *,
    next_input: Tensor,
    thoughts: Tensor | None = None,
    step: int = 0,
    eps: float = 1e-5,
    norm: str = "none",
    scale: float = 1.0,
    sigma: float = 0.0,
    relative: bool = False,
) -> None:
    """Write the next thought of every row to `next_input` and to step `step` of `thoughts`.

    With m = norm(hidden) and e a standard normal value per element (site `sites.NOISE`):

        without log_std:  z = scale * m + s * e,  s = sigma, or sigma * rms(scale * m) if `relative`
        with log_std:     z = scale * (m + exp(log_std) * sigma * e)

    The arithmetic is float32, rounded once to the storage dtype; both places receive the same rounded values.
    A row is the same bits at every number of threads and rows and at every CPU level.

    Args:
        hidden: float32 or bfloat16 [rows, hidden]; the last hidden state, or the mean of a Gaussian head.
        weight, bias: [hidden], dtype of `hidden`, or None; parameters of the norm (bias for "layer" only).
        log_std: [rows, hidden], dtype of `hidden`: logarithm of the learned standard deviation, or None.
        keys: int64 [rows], trajectory keys.
        positions: int64 [rows], or an int for all rows: the position at which the thought will be read
            (prompt length + step), in [0, 0xFFFFF), or `sites.FIXED`.
        seed: 64-bit run seed, an int or an int64 tensor with one element on the device of `hidden`.
        next_input: [rows, hidden], dtype of `hidden`, contiguous; written.
        thoughts: [rows, steps, hidden], dtype of `hidden`, contiguous; ``thoughts[:, step]`` is written. Or
            None.
        step: which step of `thoughts` is written, 0 by default.
        eps: of the norm, 1e-5 by default.
        norm: "layer" (COCONUT's final norm, CODI's projector), "rms", or "none" (default; CoLaR).
        scale: factor of the thought, 1 by default.
        sigma: standard deviation of the noise, at least 0: in units of the thought, or of its root mean
            square if `relative`; with `log_std` a factor on the learned standard deviation (CoLaR's latent
            temperature). With 0 (default) nothing is drawn.
        relative: see `sigma`; must be False with `log_std`.

    Raises:
        TypeError: an argument has a dtype that is not listed above.
        ValueError: a shape, device, step, sigma, norm or memory layout that is not allowed.
        RuntimeError: an input requires grad while grad mode is on, or a position is out of range.

    Source: S. Hao et al., "Training large language models to reason in a continuous latent space" (COCONUT),
    2024, for thoughts fed back as inputs; You et al., "Parallel test-time scaling for latent reasoning
    models", 2025, for additive Gaussian noise on thoughts.
    """
    keys, positions, seed = _check(
        hidden,
        next_input,
        thoughts,
        keys,
        positions,
        seed,
        step,
        weight,
        bias,
        eps,
        norm,
        scale,
        sigma,
        relative,
        log_std,
    )
    torch.ops.latent_ext.next_thought(
        hidden.contiguous(),
        None if weight is None else weight.contiguous(),
        None if bias is None else bias.contiguous(),
        None if log_std is None else log_std.contiguous(),
        keys,
        positions,
        seed,
        eps,
        norm,
        scale,
        sigma,
        relative,
        step,
        next_input,
        thoughts,
    )


def next_thought_reference(
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    log_std: Tensor | None,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    *,
    next_input: Tensor,
    thoughts: Tensor | None = None,
    step: int = 0,
    eps: float = 1e-5,
    norm: str = "none",
    scale: float = 1.0,
    sigma: float = 0.0,
    relative: bool = False,
) -> None:
    """`next_thought` in plain PyTorch: same arguments, same noise, sums in PyTorch's order."""
    keys, positions, seed = _check(
        hidden,
        next_input,
        thoughts,
        keys,
        positions,
        seed,
        step,
        weight,
        bias,
        eps,
        norm,
        scale,
        sigma,
        relative,
        log_std,
    )
    mean = norm_reference(hidden, weight, bias, eps, norm)
    if sigma == 0:
        thought = scale * mean
    else:
        noise = normals(seed, keys, positions, sites.NOISE, hidden.shape[-1])
        if log_std is not None:
            deviation = elementary.exp(log_std.to(torch.float32)) * sigma
            thought = scale * (mean + deviation * noise)
        else:
            scaled = scale * mean
            root_mean_square = torch.sqrt((scaled * scaled).mean(dim=-1, keepdim=True))
            thought = scaled + (sigma * root_mean_square if relative else sigma) * noise
    next_input.copy_(thought)
    if thoughts is not None:
        thoughts[:, step] = next_input


def _check(
    hidden: Tensor,
    next_input: Tensor,
    thoughts: Tensor | None,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    step: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    norm: str,
    scale: float,
    sigma: float,
    relative: bool,
    log_std: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    check_storage("hidden", hidden)
    check_rank("hidden", hidden, "[rows, hidden]")
    check_width("hidden", hidden)
    rows, width = hidden.shape
    check_tensor("next_input", next_input, (rows, width), "[rows, hidden]", hidden.dtype, hidden.device)
    check_mutable("next_input", next_input)
    if thoughts is not None:
        check_rank("thoughts", thoughts, "[rows, steps, hidden]")
        steps = thoughts.shape[1]
        shape = (rows, steps, width)
        check_tensor("thoughts", thoughts, shape, "[rows, steps, hidden]", hidden.dtype, hidden.device)
        check_mutable("thoughts", thoughts)
        if not 0 <= step < steps:
            raise ValueError(f"step must be in [0, {steps}), the steps of thoughts, got {step}")
    check_norm(norm, eps, hidden, weight, bias)
    check_finite("scale", scale)
    check_finite("sigma", sigma, low=0)
    if log_std is not None:
        check_tensor("log_std", log_std, (rows, width), "[rows, hidden]", hidden.dtype, hidden.device)
        if relative:
            raise ValueError(
                "relative must be False when log_std is given: log_std sets the scale of the noise"
            )
    tensors = {"hidden": hidden, "weight": weight, "bias": bias, "log_std": log_std}
    check_inference("next_thought", **tensors, next_input=next_input, thoughts=thoughts)
    return row_randomness(rows, hidden.device, keys, positions, seed)


@torch.library.register_fake("latent_ext::next_thought")
def _fake(
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    log_std: Tensor | None,
    keys: Tensor,
    positions: Tensor,
    seed: Tensor,
    eps: float,
    norm: str,
    scale: float,
    sigma: float,
    relative: bool,
    step: int,
    next_input: Tensor,
    thoughts: Tensor | None,
) -> None:
    return None
