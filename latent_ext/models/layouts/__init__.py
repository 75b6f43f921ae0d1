"""Layouts of published checkpoints: which one lies on disk is read off its tensors' names and its config.json."""

from __future__ import annotations

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.layouts.depth_recurrent import DepthRecurrent
from latent_ext.models.layouts.hugging_face import HuggingFace
from latent_ext.models.layouts.latenttts import LatentTTS
from latent_ext.models.layouts.layout import Checkpoint, Layout, Stored, needed_config
from latent_ext.models.layouts.original_coconut import OriginalCoconut
from latent_ext.models.layouts.original_codi import OriginalCodi
from latent_ext.models.layouts.original_colar import OriginalColar
from latent_ext.models.layouts.simcot_coconut import SimCotCoconut

_ALL: tuple[Layout, ...] = (
    SimCotCoconut(),
    OriginalCoconut(),
    OriginalCodi(),
    OriginalColar(),
    DepthRecurrent("huginn", "huginn_raven"),
    DepthRecurrent("ouro", "ouro"),
    LatentTTS(),
    HuggingFace(),
)
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}
"""By name; the most telling names of tensors are looked for first."""


def read_layout(stored: Stored, family: str | None, *, own: bool = False) -> Checkpoint:
    """The checkpoint in this package's names, by the first layout that recognises it.

    Args:
        stored: what lies on disk.
        family: its name; files that no layout recognises are a plain body, of the family that is named here.
        own: `family` is the name of an object of the user's, which takes the files of any family.

    Raises:
        CheckpointError: naming the tensor or the family at fault.
    """
    if any(name.startswith("classifier.") for name in stored.tensors):
        raise CheckpointError(
            f"checkpoint {stored.source}: tensor 'classifier.weight' says that this is a LatentRM; "
            "it is read by load_reward (--reward)"
        )
    layout = next((layout for layout in _ALL if layout.recognises(stored)), None)
    if own:
        return LAYOUTS["hugging-face"].read(stored, family) if layout is None else layout.read(stored, None)
    bodies = (LAYOUTS["latenttts"], LAYOUTS["hugging-face"])
    if layout is None and family is None:
        allowed = [name for body in bodies for name in body.families]
        raise CheckpointError(
            f"checkpoint {stored.source}: no family is known for architectures "
            f"{needed_config(stored).get('architectures') or []}; name one with family=, allowed are {', '.join(allowed)}"
        )
    if layout is None or layout in bodies:  # both name a body's tensors as Hugging Face does
        layout = next((body for body in bodies if family in body.families), layout or bodies[0])
    if family is not None and family not in layout.families:
        raise CheckpointError(
            f"checkpoint {stored.source}: its layout {layout.name!r} is one of family "
            f"{' or '.join(layout.families)}, not {family!r}"
        )
    return layout.read(stored, family)


__all__ = ["LAYOUTS", "Checkpoint", "Layout", "Stored", "read_layout"]
