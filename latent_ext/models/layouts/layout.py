"""What a layout is: how one published code stores a model, read into and written from one set of names.

The names are those of LatentTTS, which keeps Hugging Face's: ``transformer.*`` or ``model.*``, ``lm_head.weight``,
``projector.{1,3,4}.*`` (CODI), ``lt_head.{fc.0,fc.2,fc.3,mean,log_std}.*`` (CoLaR); adapters stand behind the name of
their linear (`latent_ext.models.lora`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.layouts.base_model import BaseModel
from latent_ext.models.semantics import Semantics


@dataclass(frozen=True)
class Stored:
    """What lies on disk, before any layout has looked at it.

    Attributes:
        source: named in errors.
        directory: where the files are.
        file: name of the weight file.
        config: parsed ``config.json``; None where there is none.
        tensors: by the names in the file.
        base: the model that this one was trained from, for what the files leave out.
    """

    source: str
    directory: Path
    file: str
    config: dict[str, Any] | None
    tensors: dict[str, Tensor]
    base: BaseModel

    @property
    def architecture(self) -> str | None:
        """The first class that config.json names."""
        named = (self.config or {}).get("architectures")
        first = named[0] if isinstance(named, list) and named else None
        return first if isinstance(first, str) else None


@dataclass
class Checkpoint:
    """A checkpoint in this package's names.

    Attributes:
        layout: name of the layout it was read from.
        family: a key of `latent_ext.models.registry.FAMILIES`, or the name of a family object.
        config: of the body, with the family's own fields.
        tensors: in the dtypes in which they are stored.
        semantics: behaviour of that layout's authors' code, where it is not plainly wrong.
        latent_length: number of thoughts; None for the family's default.
        start, end: token ids that have no strings in the tokenizer; None where they have.
        new_tokens: strings that the layout puts behind its base tokenizer, in order.
        auxiliary: tensors of training that no inference reads, by the names in the file.
        tokenizer_directory: where the tokenizer's files are.
        file: name of the weight file.
        source: named in errors.
    """

    layout: str
    family: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer_directory: Path
    source: str
    semantics: Semantics = field(default_factory=Semantics)
    latent_length: int | None = None
    start: int | None = None
    end: int | None = None
    new_tokens: tuple[str, ...] = ()
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    file: str = "model.safetensors"


class Layout(Protocol):
    """One short file per layout implements this."""

    @property
    def name(self) -> str:
        """What ``latent-ext convert --to`` calls it."""

    @property
    def families(self) -> tuple[str, ...]:
        """The families that it can hold."""

    def semantics(self, family: str) -> Semantics:
        """Behaviour of its authors' code, where that is not plainly wrong."""

    def recognises(self, stored: Stored) -> bool:
        """Whether the names of the tensors, or the class in config.json, are this layout's."""

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        """Every tensor under this package's name; unknown ones stay, for the loader to refuse by name."""

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        """For writing: name of the weight file, tensors by this layout's names, and config.json.

        Raises:
            ValueError: naming what the layout cannot hold.
        """


def needed_config(stored: Stored) -> dict[str, Any]:
    """The parsed ``config.json``.

    Raises:
        CheckpointError: if there is none.
    """
    if stored.config is None:
        raise CheckpointError(f"model: {stored.directory} has no config.json")
    return stored.config


def with_copied_tables(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with ``lm_head.weight``, which original codes store although it is the token embedding."""
    table = tensors.get("transformer.wte.weight", tensors.get("model.embed_tokens.weight"))
    if "lm_head.weight" in tensors or table is None:
        return tensors
    return tensors | {"lm_head.weight": table}


def without_copied_tables(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without a ``lm_head.weight`` that has the token embedding's bits."""
    table = tensors.get("transformer.wte.weight", tensors.get("model.embed_tokens.weight"))
    head = tensors.get("lm_head.weight")
    if head is None or table is None or head.dtype != table.dtype or head.shape != table.shape:
        return tensors
    if not head.equal(table):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
