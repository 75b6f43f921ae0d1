"""The published layouts of Huginn and Ouro: their own ``model_type``, safetensors, a chat tokenizer; no remote code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latent_ext.models.layouts.layout import Checkpoint, Stored, needed_config
from latent_ext.models.semantics import Semantics


@dataclass(frozen=True)
class DepthRecurrent:
    """Names are kept; `latent_ext.models.depth_checkpoint` builds the body.

    Attributes:
        name: of the layout and of its family.
        model_type: in config.json.
    """

    name: str
    model_type: str

    @property
    def families(self) -> tuple[str, ...]:
        return (self.name,)

    def semantics(self, family: str) -> Semantics:
        return Semantics()

    def recognises(self, stored: Stored) -> bool:
        return (stored.config or {}).get("model_type") == self.model_type

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        config = needed_config(stored)
        return Checkpoint(
            layout=self.name,
            family=self.name,
            config=config,
            tensors=stored.tensors,
            tokenizer_directory=stored.directory,
            source=stored.source,
            latent_length=config.get("latent_length"),
            file=stored.file,
        )

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        return "model.safetensors", checkpoint.tensors, checkpoint.config
