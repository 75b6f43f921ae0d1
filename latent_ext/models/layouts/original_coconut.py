"""Facebook's Coconut: a state dict in a file ``checkpoint_N`` (facebookresearch/coconut, arXiv 2412.06769)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.layouts.base_model import has_tokenizer
from latent_ext.models.layouts.layout import Checkpoint, Stored, with_copied_tables, without_copied_tables
from latent_ext.models.semantics import Semantics

PREFIX = "base_causallm."
# The wrapper registers the token embedding a second time.
_DUPLICATE = "embedding.weight"
NEW_TOKENS = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")


class OriginalCoconut:
    """``base_causallm.*`` and a second ``embedding.weight``; a file of the CoT stage has neither."""

    name = "original-coconut"
    families: tuple[str, ...] = ("coconut",)

    def semantics(self, family: str) -> Semantics:
        return Semantics()

    def recognises(self, stored: Stored) -> bool:
        if any(name.startswith(PREFIX) for name in stored.tensors):
            return True
        return stored.file.startswith("checkpoint_")

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        return read_coconut(stored, self.name, auxiliary=None)

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        return coconut_names(checkpoint)


def read_coconut(stored: Stored, layout: str, auxiliary: str | None) -> Checkpoint:
    """Reads a wrapper around a causal language model.

    Args:
        stored: the file.
        layout: its layout's name.
        auxiliary: prefix of the tensors that only training reads, or None.
    """
    prefixed = any(name.startswith(PREFIX) for name in stored.tensors)
    tensors, aside = {}, {}
    for name, tensor in stored.tensors.items():
        if auxiliary is not None and name.startswith(auxiliary):
            aside[name] = tensor
        elif name == _DUPLICATE:
            continue
        elif prefixed and not name.startswith(PREFIX):
            raise CheckpointError(
                f"checkpoint {stored.source}: tensor {name!r} belongs to no part of the model"
            )
        else:
            tensors[name.removeprefix(PREFIX)] = tensor
    tensors = without_copied_tables(tensors)
    config = stored.config or stored.base.config(tensors, stored.source)
    own = has_tokenizer(stored.directory)
    return Checkpoint(
        layout=layout,
        family="coconut",
        config=config,
        tensors=tensors,
        tokenizer_directory=stored.directory if own else stored.base.directory(tensors, stored.source),
        source=stored.source,
        latent_length=config.get("latent_length"),
        new_tokens=NEW_TOKENS,
        auxiliary=aside,
        file=stored.file,
    )


def coconut_names(checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """File, tensors and config of a checkpoint as the wrapper's state dict."""
    tensors = with_copied_tables(checkpoint.tensors)
    named = {PREFIX + name: tensor for name, tensor in tensors.items()}
    table = tensors.get("transformer.wte.weight", tensors.get("model.embed_tokens.weight"))
    assert table is not None
    named[_DUPLICATE] = table
    file = checkpoint.file if checkpoint.file.startswith("checkpoint_") else "checkpoint_0"
    return file, named, checkpoint.config
