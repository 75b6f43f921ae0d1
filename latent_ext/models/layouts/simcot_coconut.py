"""SIM-CoT's Coconut: the original layout beside an auxiliary decoder of training (InternLM/SIM-CoT, arXiv 2509.20317)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from latent_ext.models.layouts.layout import Checkpoint, Stored
from latent_ext.models.layouts.original_coconut import coconut_names, read_coconut
from latent_ext.models.semantics import Semantics

# Spelled like this in the published class.
_AUXILIARY = "expainable_llm."


class SimCotCoconut:
    """``base_causallm.*``, ``embedding.weight`` and ``expainable_llm.*``, which inference does not read."""

    name = "simcot-coconut"
    families: tuple[str, ...] = ("coconut",)

    def semantics(self, family: str) -> Semantics:
        return Semantics()

    def recognises(self, stored: Stored) -> bool:
        return any(name.startswith(_AUXILIARY) for name in stored.tensors)

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        checkpoint = read_coconut(stored, self.name, auxiliary=_AUXILIARY)
        # c_thought 2, max_latent_stage 5.
        checkpoint.latent_length = checkpoint.latent_length or 10
        return checkpoint

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        if not checkpoint.auxiliary:
            raise ValueError(f"to: layout {self.name!r} needs the tensors {_AUXILIARY}*, and there are none")
        file, tensors, config = coconut_names(checkpoint)
        return file, tensors | checkpoint.auxiliary, config
