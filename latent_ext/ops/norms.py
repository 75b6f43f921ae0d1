"""The two norms that the ops know, LayerNorm and RMSNorm, in float32.

Sources: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016; B. Zhang, R. Sennrich, "Root mean
square layer normalization", NeurIPS 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops.arguments import check_finite, check_tensor

NORMS = ("layer", "rms", "none")


def check_norm(
    norm: str, eps: float, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, prefix: str = ""
) -> None:
    """Raises unless `norm` is one of `NORMS` and weight and bias, where given, fit to hidden [rows, hidden].

    A bias belongs to "layer" only, a weight to "layer" and "rms"; `prefix` stands before their names in the
    message.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}")
    check_finite("eps", eps, low=0)
    for name, parameter, norms in (
        (prefix + "weight", weight, ("layer", "rms")),
        (prefix + "bias", bias, ("layer",)),
    ):
        if parameter is None:
            continue
        if norm not in norms:
            raise ValueError(f"{name} must be None when norm is {norm!r}")
        check_tensor(name, parameter, (hidden.shape[-1],), "[hidden]", hidden.dtype, hidden.device)


def norm_reference(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, norm: str) -> Tensor:
    """The norm of the last axis of x, computed and returned in float32; arguments as `check_norm`."""
    x = x.to(torch.float32)
    if norm == "none":
        return x
    if norm == "layer":
        x = x - x.mean(dim=-1, keepdim=True)
    y = x * (1.0 / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps))
    if weight is not None:
        y = y * weight.to(torch.float32)
    if bias is not None:
        y = y + bias.to(torch.float32)
    return y
