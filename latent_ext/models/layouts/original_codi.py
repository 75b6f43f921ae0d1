"""CODI's own layout, SIM-CoT's CODI included: a wrapper with unmerged LoRA adapters (zhenyi4/codi, arXiv 2502.21074)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.layouts.base_model import has_tokenizer
from latent_ext.models.layouts.layout import Checkpoint, Stored, with_copied_tables, without_copied_tables
from latent_ext.models.layouts.peft_names import from_peft, to_peft
from latent_ext.models.semantics import Semantics

_WRAPPER = "codi."
_PROJECTOR = {"prj.1.": "projector.1.", "prj.3.": "projector.3.", "prj.ln.": "projector.4."}
# SIM-CoT's second decoder and the linears in front of and behind it: only training reads them.
_AUXILIARY = ("decoder.", "pj_in.", "pj_out.")
_SEMANTICS = Semantics(question="squeezed", end_token="excluded")


class OriginalCodi:
    """``codi.base_model.model.*`` with ``lora_{A,B}.default``, ``prj.*``; three new rows without strings of their own."""

    name = "original-codi"
    families: tuple[str, ...] = ("codi",)

    def semantics(self, family: str) -> Semantics:
        return _SEMANTICS

    def recognises(self, stored: Stored) -> bool:
        return any(name.startswith((_WRAPPER, "prj.")) for name in stored.tensors)

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        tensors, aside = {}, {}
        for name, tensor in stored.tensors.items():
            head = next((old for old in _PROJECTOR if name.startswith(old)), None)
            if name.startswith(_AUXILIARY):
                aside[name] = tensor
            elif head is not None:
                tensors[_PROJECTOR[head] + name.removeprefix(head)] = tensor
            elif name.startswith(_WRAPPER):
                tensors[from_peft(name.removeprefix(_WRAPPER))] = tensor
            else:
                raise CheckpointError(
                    f"checkpoint {stored.source}: tensor {name!r} belongs to no part of the model"
                )
        tensors = without_copied_tables(tensors)
        config = stored.config or stored.base.config(tensors, stored.source)
        rows = _embedding_rows(tensors)
        own = has_tokenizer(stored.directory)
        return Checkpoint(
            layout=self.name,
            family="codi",
            config=config,
            tensors=tensors,
            tokenizer_directory=stored.directory if own else stored.base.directory(tensors, stored.source),
            source=stored.source,
            semantics=_SEMANTICS,
            latent_length=config.get("latent_length"),
            # Rows V, V + 1 and V + 2 are pad, begin and end of thought.
            start=None if rows is None else rows - 2,
            end=None if rows is None else rows - 1,
            auxiliary=aside,
            file=stored.file,
        )

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        rows = _embedding_rows(checkpoint.tensors)
        if rows is None or (checkpoint.start, checkpoint.end) != (rows - 2, rows - 1):
            raise ValueError(
                f"to: layout {self.name!r} has its start and end token in the last two rows of the embedding; "
                f"here they are {checkpoint.start} and {checkpoint.end} of {rows}"
            )
        named = {
            _WRAPPER + name: tensor
            for name, tensor in to_peft(
                with_copied_tables(
                    {k: v for k, v in checkpoint.tensors.items() if not k.startswith("projector.")}
                )
            ).items()
        }
        for old, new in _PROJECTOR.items():
            for name, tensor in checkpoint.tensors.items():
                if name.startswith(new):
                    named[old + name.removeprefix(new)] = tensor
        same = checkpoint.layout == self.name
        return (
            checkpoint.file if same else "pytorch_model.bin",
            named | (checkpoint.auxiliary if same else {}),
            checkpoint.config,
        )


def _embedding_rows(tensors: dict[str, Tensor]) -> int | None:
    table = tensors.get("transformer.wte.weight", tensors.get("model.embed_tokens.weight"))
    return None if table is None else int(table.shape[0])
