"""The model that a checkpoint was trained from: its config, its tokenizer and, for adapters alone, its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latent_ext.models.checkpoint import TEXT_FILES, CheckpointError, read_config, read_tensors, resolve

# What the published checkpoints name as their base, by width of the token embedding.
_GPT2 = {
    768: "openai-community/gpt2",
    1024: "openai-community/gpt2-medium",
}
_LLAMA = {
    2048: "meta-llama/Llama-3.2-1B-Instruct",
    3072: "meta-llama/Llama-3.2-3B-Instruct",
    4096: "meta-llama/Llama-3.1-8B-Instruct",
}


@dataclass(frozen=True)
class BaseModel:
    """A base model that is looked up when something of it is needed.

    Attributes:
        named: directory or Hub id that the user gave; None: the published one.
    """

    named: str | Path | None = None

    def name(self, tensors: dict[str, Tensor], source: str) -> str | Path:
        """The base of these tensors (by this package's names).

        Raises:
            CheckpointError: if none was given and none is known for their width.
        """
        if self.named is not None:
            return self.named
        widths = {
            name: tensor.shape[-1]
            for name, tensor in tensors.items()
            if name in ("transformer.wte.weight", "model.embed_tokens.weight", "lt_head.fc.0.weight")
            and tensor.dim() == 2
        }
        for name, width in widths.items():
            known = _GPT2 if name.startswith("transformer.") else _LLAMA
            if width in known:
                return known[width]
        raise CheckpointError(
            f"checkpoint {source}: has no config.json, and no base model is known for its width; "
            "name its directory or Hub id with base="
        )

    def directory(self, tensors: dict[str, Tensor], source: str, *, weights: bool = False) -> Path:
        """Where the base's files are; without its weights unless they are asked for."""
        name = self.name(tensors, source)
        files = (*TEXT_FILES, "*.safetensors") if weights else TEXT_FILES
        try:
            return resolve(name, files=files)
        except CheckpointError as error:
            raise CheckpointError(f"base: needed by {source}, but {error}") from None

    def config(self, tensors: dict[str, Tensor], source: str) -> dict[str, Any]:
        return read_config(self.directory(tensors, source))

    def weights(self, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """By Hugging Face's names, safetensors only."""
        return read_tensors(self.directory(tensors, source, weights=True))


def has_tokenizer(directory: Path) -> bool:
    """Whether a tokenizer's files lie in `directory`."""
    return any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
