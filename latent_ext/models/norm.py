"""A norm's parameters, as every block of a body hands them to ``dropout_add_norm``."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """A norm's parameters.

    Attributes:
        kind: "layer" or "rms".
        weight: (hidden,).
        bias: (hidden,), or None; an "rms" norm has none.
        eps: added to the mean square.
    """

    kind: str
    weight: Tensor
    bias: Tensor | None
    eps: float
