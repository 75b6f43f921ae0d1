"""LatentTTS's own layout: config.json with one of its classes, safetensors, a tokenizer that knows the latent tokens
(ModalityDance/LatentTTS, arXiv 2510.07745)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from latent_ext.models.layouts.layout import Checkpoint, Stored, needed_config
from latent_ext.models.lora import LORA_A
from latent_ext.models.semantics import Semantics

_FAMILY = {
    "COCONUTGPT2": "coconut",
    "COCONUTLlama": "coconut",
    "GPT2LMHeadModel": "coconut",
    "CODIGPT2": "codi",
    "CODILlama": "codi",
    "ColarLlama": "colar",
}
_SEMANTICS = {"coconut": Semantics(), "codi": Semantics(), "colar": Semantics(stop="argmax")}
# Modules that stand beside the body, by family.
_HEADS = {"codi": "projector.", "colar": "lt_head."}


class LatentTTS:
    """Names are the package's own, so reading and writing change none."""

    name = "latenttts"
    families: tuple[str, ...] = ("coconut", "codi", "colar")

    def semantics(self, family: str) -> Semantics:
        return _SEMANTICS.get(family, Semantics())

    def recognises(self, stored: Stored) -> bool:
        return stored.architecture in _FAMILY or _family_of_names(stored.tensors) is not None

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        known = family or _family_of_names(stored.tensors) or _FAMILY.get(stored.architecture or "")
        config = needed_config(stored)
        assert known is not None
        steps = config.get("max_latent_length", config.get("latent_length"))
        return Checkpoint(
            layout=self.name,
            family=known,
            config=config,
            tensors=stored.tensors,
            tokenizer_directory=stored.directory,
            source=stored.source,
            semantics=self.semantics(known),
            latent_length=steps,
            file=stored.file,
        )

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        for name in sorted(checkpoint.tensors):
            if name.endswith(LORA_A):
                raise ValueError(f"to: layout {self.name!r} holds no adapter, and there is {name!r}")
            if name.startswith("lt_head.log_std."):
                raise ValueError(f"to: layout {self.name!r} holds no deviation, and there is {name!r}")
        body = "Llama" if any(name.startswith("model.") for name in checkpoint.tensors) else "GPT2"
        written_by = {"coconut": f"COCONUT{body}", "codi": f"CODI{body}", "colar": "ColarLlama"}
        config = checkpoint.config | {"architectures": [written_by[checkpoint.family]]}
        if checkpoint.family == "codi" and checkpoint.layout != self.name:
            inner = checkpoint.tensors["projector.1.weight"].shape[0]
            config |= {"projector": True, "projector_hidden_size": inner}
        if checkpoint.family == "colar" and checkpoint.layout != self.name:
            config |= {"latent_intermediate_size": checkpoint.tensors["lt_head.fc.0.weight"].shape[0]}
        return "model.safetensors", checkpoint.tensors, config


def _family_of_names(tensors: dict[str, Tensor]) -> str | None:
    for family, prefix in _HEADS.items():
        if any(name.startswith(prefix) for name in tensors):
            return family
    return None
