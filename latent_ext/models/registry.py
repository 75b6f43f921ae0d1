"""The families by name, and a family object from what a checkpoint says."""

from __future__ import annotations

from typing import Any

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.coconut import Coconut
from latent_ext.models.codi import Codi
from latent_ext.models.colar import Colar
from latent_ext.models.family import Family
from latent_ext.models.layouts import Checkpoint
from latent_ext.models.semantics import Semantics

FAMILIES: dict[str, type] = {"coconut": Coconut, "codi": Codi, "colar": Colar}


def family_of(checkpoint: Checkpoint, semantics: Semantics, latent_length: int | None) -> Family:
    """The family object of a checkpoint.

    Args:
        checkpoint: as a layout read it.
        semantics: the layout's, with the user's switches.
        latent_length: number of thoughts (CoLaR: the most); None: the checkpoint's, else the family's own.

    Raises:
        ValueError: for a number of thoughts that is no whole number >= 1.
        CheckpointError: for a factor of CoLaR's head that is no positive number.
    """
    steps = latent_length if latent_length is not None else checkpoint.latent_length
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise ValueError(f"latent_length: got {steps!r}; a whole number of thoughts >= 1 is needed")
    given: dict[str, Any] = {} if steps is None else {"latent_length": steps}
    if checkpoint.family == "codi":
        given |= {"semantics": semantics, "start": checkpoint.start, "end": checkpoint.end}
    elif checkpoint.family == "colar":
        given |= {"semantics": semantics}
        factor = checkpoint.config.get("latent_embedding_std", Colar.embedding_std)
        if not isinstance(factor, (int, float)) or not 0.0 < factor < float("inf"):
            raise CheckpointError(
                f"checkpoint {checkpoint.source}: latent_embedding_std is {factor!r}; a positive number is needed"
            )
        given["embedding_std"] = float(factor)
        if semantics.least_thoughts > given.get("latent_length", Colar.latent_length):
            raise ValueError(
                f"switches: least_thoughts: got {semantics.least_thoughts}; "
                f"at most latent_length = {given.get('latent_length', Colar.latent_length)} is allowed"
            )
    return FAMILIES[checkpoint.family](**given)
