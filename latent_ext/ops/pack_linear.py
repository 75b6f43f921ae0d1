"""A weight matrix into the panels of a packed model."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops.arguments import check_inference
from latent_ext.ops.packed_reference import FORMATS, INT8_LARGEST, panels_of


def pack_linear(
    weight: Tensor, format: str, panels: Tensor, scales: Tensor | None = None, sums: Tensor | None = None
) -> None:
    """Write a weight matrix into panels, in the order in which the native engine's products read it.

    A panel holds 48 outputs, the last one as many as are left, rounded up to a multiple of 16. It is a matrix of
    32-bit words, [words of a row, outputs of the panel], and a word holds 1 (fp32), 2 (bf16) or 4 (int8) neighbouring
    inputs of one output, the first in the lowest bits. Inputs and outputs beyond the matrix are zeros. "bf16" rounds
    to nearest even; "int8" divides each output's weights by their largest magnitude / 127 and rounds to nearest even.

    Args:
        weight: float32 [outputs, inputs], contiguous, at least one of each.
        format: "fp32", "bf16" or "int8".
        panels: int32 [words], contiguous; written. With outputs rounded up to a multiple of 16, words is
            outputs * inputs for "fp32", outputs * ceil(inputs / 2) for "bf16", outputs * ceil(inputs / 4) for "int8".
        scales: float32 [outputs rounded up to a multiple of 16]; written: what an integer stands for. Given for
            "int8" and for no other format.
        sums: int32, shape of `scales`; written: the sum of each output's integers. Given with `scales`.

    Raises:
        RuntimeError: an argument has a dtype, shape or memory layout that is not listed above, scales or sums are
            missing or given without need, or an input requires grad while grad mode is on.

    Source: the per-output scale is that of T. Dettmers et al., "LLM.int8()", NeurIPS 2022.
    """
    check_inference("pack_linear", weight=weight)
    torch.ops.latent_ext.pack_linear(weight, format, panels, scales, sums)


def pack_linear_reference(
    weight: Tensor, format: str, panels: Tensor, scales: Tensor | None = None, sums: Tensor | None = None
) -> None:
    """`pack_linear` in plain PyTorch: same arguments, same bits.

    Raises ValueError for another `format`.
    """
    check_inference("pack_linear", weight=weight)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(map(repr, FORMATS))}, got {format!r}")
    if format == "int8":
        assert scales is not None
        assert sums is not None
        largest = weight.abs().amax(dim=1, keepdim=True)
        inverse = torch.where(largest > 0, INT8_LARGEST / largest, 0.0)
        elements = torch.round(weight * inverse).to(torch.int8)
        scales.zero_()[: len(weight)] = largest.squeeze(1) / INT8_LARGEST
        sums.zero_()[: len(weight)] = elements.sum(dim=1, dtype=torch.int32)
    else:
        elements = weight.to(torch.bfloat16) if format == "bf16" else weight
    panels.copy_(panels_of(elements, format))


@torch.library.register_fake("latent_ext::pack_linear")
def _fake(weight: Tensor, format: str, panels: Tensor, scales: Tensor | None, sums: Tensor | None) -> None:
    return None
