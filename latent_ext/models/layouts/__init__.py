"""Layouts of published checkpoints: which one lies on disk is read off its tensors' names and its config.json."""

from __future__ import annotations

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.layouts.latenttts import LatentTTS
from latent_ext.models.layouts.layout import Checkpoint, Layout, Stored
from latent_ext.models.layouts.original_coconut import OriginalCoconut
from latent_ext.models.layouts.original_codi import OriginalCodi
from latent_ext.models.layouts.original_colar import OriginalColar
from latent_ext.models.layouts.simcot_coconut import SimCotCoconut

_ALL: tuple[Layout, ...] = (SimCotCoconut(), OriginalCoconut(), OriginalCodi(), OriginalColar(), LatentTTS())
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}
"""By name; the most telling names of tensors are looked for first."""


def read_layout(stored: Stored, family: str | None) -> Checkpoint:
    """The checkpoint in this package's names, by the first layout that recognises it; with a family, else LatentTTS's.

    Raises:
        CheckpointError: naming the tensor or the family at fault.
    """
    if any(name.startswith("classifier.") for name in stored.tensors):
        raise CheckpointError(
            f"checkpoint {stored.source}: tensor 'classifier.weight' says that this is a LatentRM; "
            "it is read by load_reward (--reward)"
        )
    layout = next((layout for layout in _ALL if layout.recognises(stored)), LAYOUTS["latenttts"])
    if family is not None and family not in layout.families:
        raise CheckpointError(
            f"checkpoint {stored.source}: its layout {layout.name!r} is one of family "
            f"{' or '.join(layout.families)}, not {family!r}"
        )
    return layout.read(stored, family)


__all__ = ["LAYOUTS", "Checkpoint", "Layout", "Stored", "read_layout"]
