"""Names that a PEFT wrapper gives to a model's tensors, and back."""

from __future__ import annotations

import re

from torch import Tensor

from latent_ext.models.lora import LORA_A, LORA_B

_WRAPPED = "base_model.model."
_ADAPTER = re.compile(r"\.lora_([AB])\.default\.weight$")


def from_peft(name: str) -> str:
    """The plain name of a wrapped tensor; a name that is not wrapped comes back as it is."""
    plain = name.removeprefix(_WRAPPED).replace(".base_layer.", ".")
    return _ADAPTER.sub(r".lora_\1.weight", plain)


def to_peft(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as PEFT names them; without adapters they were never wrapped and keep their names."""
    linears = {name.removesuffix(LORA_A) for name in tensors if name.endswith(LORA_A)}
    if not linears:
        return dict(tensors)
    named = {}
    for name, tensor in tensors.items():
        linear, _, part = name.rpartition(".")
        if name.endswith((LORA_A, LORA_B)):
            wrapped = name.removesuffix(".weight") + ".default.weight"
        elif linear in linears:
            wrapped = f"{linear}.base_layer.{part}"
        else:
            wrapped = name
        named[_WRAPPED + wrapped] = tensor
    return named
