"""A plain causal language model as Hugging Face stores it: nothing latent was trained into it, or stands beside it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from latent_ext.models.layouts.layout import Checkpoint, Stored, needed_config
from latent_ext.models.semantics import Semantics


class HuggingFace:
    """Names are the package's own. The files cannot say which family they are meant for, so it must be named."""

    name = "hugging-face"
    families: tuple[str, ...] = ("soft-thinking", "latent-grpo")

    def semantics(self, family: str) -> Semantics:
        return Semantics()

    def recognises(self, stored: Stored) -> bool:
        return False

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        assert family is not None
        config = needed_config(stored)
        return Checkpoint(
            layout=self.name,
            family=family,
            config=config,
            tensors=stored.tensors,
            tokenizer_directory=stored.directory,
            source=stored.source,
            latent_length=config.get("latent_length"),
            file=stored.file,
        )

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        return "model.safetensors", checkpoint.tensors, checkpoint.config
