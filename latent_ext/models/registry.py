"""The families by name, and a family object from what a checkpoint says."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.coconut import Coconut
from latent_ext.models.codi import Codi
from latent_ext.models.colar import Colar
from latent_ext.models.depth_checkpoint import default_family, is_depth
from latent_ext.models.family import Family
from latent_ext.models.huginn import Huginn
from latent_ext.models.layouts import Checkpoint
from latent_ext.models.ouro import Ouro
from latent_ext.models.semantics import Semantics
from latent_ext.models.soft_thinking import LatentGRPO, SoftThinking

FAMILIES: dict[str, type] = {
    "coconut": Coconut,
    "codi": Codi,
    "colar": Colar,
    "soft-thinking": SoftThinking,
    "latent-grpo": LatentGRPO,
    "huginn": Huginn,
    "ouro": Ouro,
}


def family_of(checkpoint: Checkpoint, semantics: Semantics, latent_length: int | None) -> Family:
    """The family object of a checkpoint.

    Args:
        checkpoint: as a layout read it.
        semantics: the layout's, with the user's switches.
        latent_length: number of thoughts (CoLaR: the most); None: the checkpoint's, else the family's own.

    Raises:
        ValueError: for a number of thoughts that is no whole number >= 1 (0 where the number is fixed).
        CheckpointError: for a factor of CoLaR's head that is no positive number.
    """
    # A fixed number of thoughts may be none: the end token then follows the prompt, and a chain is written out.
    least = 0 if semantics.stop == "fixed" and not is_depth(checkpoint.config) else 1
    given = _steps(latent_length if latent_length is not None else checkpoint.latent_length, least)
    if is_depth(checkpoint.config):
        return replace(default_family(checkpoint.config), **given)
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


def with_length(family: Family, latent_length: int | None) -> Family:
    """A family object with `latent_length` thoughts; None: as it is.

    Raises:
        ValueError: for a number of thoughts that is no whole number >= 1, or an object that is no dataclass.
    """
    given = _steps(latent_length)
    if not given:
        return family
    if not is_dataclass(family) or isinstance(family, type):
        raise ValueError(
            f"latent_length: got {latent_length}; this family is no dataclass, so give its object its own"
        )
    return replace(family, **given)


def _steps(steps: int | None, least: int = 1) -> dict[str, Any]:
    if steps is None:
        return {}
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < least:
        raise ValueError(f"latent_length: got {steps!r}; a whole number of thoughts >= {least} is needed")
    return {"latent_length": steps}
