"""Dropout of a branch, its addition to the residual, and the norm that follows, in one pass over each row."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops.arguments import (
    check_inference,
    check_rank,
    check_site,
    check_storage,
    check_tensor,
    check_width,
    row_randomness,
)
from latent_ext.ops.norms import check_norm, norm_reference
from latent_ext.ops.philox import drop_threshold, dropout


def dropout_add_norm(
    branch: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    *,
    site: int,
    p: float,
    eps: float = 1e-5,
    norm: str = "layer",
) -> tuple[Tensor, Tensor]:
    """``residual_out = residual + dropout(branch)`` and ``normed = norm(residual_out)``.

    The arithmetic is float32; residual_out is rounded to the storage dtype and the norm is taken from the
    rounded values. A row depends only on its own inputs and is the same bits at every number of threads and
    rows and at every CPU level. A dropped value counts as +0 even where the branch holds NaN.

    Args:
        branch: float32 or bfloat16 [rows, hidden], output of an attention or MLP block.
        residual: [rows, hidden], dtype of `branch`.
        weight: [hidden], dtype of `branch`, or None for no factor; must be None for norm "none".
        bias: [hidden], dtype of `branch`, or None; must be None unless norm is "layer".
        keys: int64 [rows], trajectory keys.
        positions: int64 [rows] token positions, or an int for all rows; in [0, 0xFFFFF), or `sites.FIXED`.
        seed: 64-bit run seed, an int or an int64 tensor with one element on the device of `branch`.
        site: dropout site in [0, 4096), see `latent_ext.ops.sites`.
        p: probability of dropping, in [0, 1). With 0 nothing is drawn and the branch is added as it is.
        eps: added to the variance ("layer") or to the mean square ("rms"); 1e-5 by default.
        norm: "layer" (default), "rms" or "none" (normed is then a copy of residual_out).

    Returns:
        residual_out [rows, hidden] and normed [rows, hidden], both in the dtype of `branch`.

    Raises:
        TypeError: an argument has a dtype that is not listed above.
        ValueError: a shape, device, site, p, eps or norm that is not allowed.
        RuntimeError: an input requires grad while grad mode is on, or a position is out of range.

    Source: N. Srivastava et al., "Dropout", JMLR 2014; for the norms see `latent_ext.ops.norms`; for the mask
    see `latent_ext.ops.philox`.
    """
    keys, positions, seed = _check(branch, residual, weight, bias, keys, positions, seed, site, p, eps, norm)
    return torch.ops.latent_ext.dropout_add_norm(
        branch.contiguous(),
        residual.contiguous(),
        None if weight is None else weight.contiguous(),
        None if bias is None else bias.contiguous(),
        keys,
        positions,
        seed,
        site,
        p,
        eps,
        norm,
    )


def dropout_add_norm_reference(
    branch: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    *,
    site: int,
    p: float,
    eps: float = 1e-5,
    norm: str = "layer",
) -> tuple[Tensor, Tensor]:
    """`dropout_add_norm` in plain PyTorch: same arguments, same mask, sums in PyTorch's order."""
    keys, positions, seed = _check(branch, residual, weight, bias, keys, positions, seed, site, p, eps, norm)
    dropped = dropout(branch, seed, keys, positions, site, p)
    residual_out = (residual.to(torch.float32) + dropped).to(branch.dtype)
    normed = norm_reference(residual_out, weight, bias, eps, norm).to(branch.dtype)
    return residual_out, normed.clone() if norm == "none" else normed


def _check(
    branch: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    site: int,
    p: float,
    eps: float,
    norm: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check_storage("branch", branch)
    check_rank("branch", branch, "[rows, hidden]")
    check_width("branch", branch)
    check_tensor("residual", residual, tuple(branch.shape), "[rows, hidden]", branch.dtype, branch.device)
    check_norm(norm, eps, branch, weight, bias)
    check_site(site)
    drop_threshold(p)
    check_inference("dropout_add_norm", branch=branch, residual=residual, weight=weight, bias=bias)
    return row_randomness(branch.shape[0], branch.device, keys, positions, seed)


@torch.library.register_fake("latent_ext::dropout_add_norm")
def _fake(
    branch: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    keys: Tensor,
    positions: Tensor,
    seed: Tensor,
    site: int,
    p: float,
    eps: float,
    norm: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(branch), torch.empty_like(branch)
