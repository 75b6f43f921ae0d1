"""A weight matrix into the panels of a packed model."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_linear(
    weight: Tensor, format: str, panels: Tensor, scales: Tensor | None = None, sums: Tensor | None = None
) -> None:
    """Writes weight [outputs, inputs] into `panels`."""
    torch.ops.latent_ext.pack_linear(weight, format, panels, scales, sums)


@torch.library.register_fake("latent_ext::pack_linear")
def _fake(weight: Tensor, format: str, panels: Tensor, scales: Tensor | None, sums: Tensor | None) -> None:
    return None
