"""Modules that stand beside a body in a checkpoint, under the names of the LatentTTS layout, sized by their tensors."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from latent_ext.models.checkpoint import CheckpointError


def add_head_modules(
    module: nn.Module, family: str, tensors: dict[str, Tensor], hidden: int, source: str
) -> None:
    """Gives `module` the submodule of its family: ``projector`` (CODI) or ``lt_head`` (CoLaR).

    Args:
        module: receives it.
        family: a family's name; others than the two get nothing.
        tensors: the checkpoint's; their shapes give the inner width.
        hidden: width of a thought.
        source: named in errors.

    Raises:
        CheckpointError: if the tensor that gives the inner width is missing or no matrix.
    """
    if family == "codi":
        inner = _rows(tensors, "projector.1.weight", source)
        module.add_module("projector", projector(hidden, inner))
    elif family == "colar":
        inner = _rows(tensors, "lt_head.fc.0.weight", source)
        gaussian = any(name.startswith("lt_head.log_std.") for name in tensors)
        module.add_module("lt_head", latent_policy(hidden, inner, gaussian=gaussian))


def projector(hidden: int, inner: int) -> nn.Module:
    """CODI's: its dropout has p = 0, and its GELU is the exact one."""
    return nn.Sequential(
        nn.Dropout(0.0), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden), nn.LayerNorm(hidden)
    )


def latent_policy(hidden: int, inner: int, *, gaussian: bool) -> nn.Module:
    """CoLaR's: a mean, and the logarithm of a standard deviation where it is Gaussian."""
    fc = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, inner), nn.LayerNorm(inner))
    parts: OrderedDict[str, nn.Module] = OrderedDict(fc=fc, mean=nn.Linear(inner, hidden))
    if gaussian:
        parts["log_std"] = nn.Linear(inner, hidden)
    return nn.Sequential(parts)


def _rows(tensors: dict[str, Tensor], name: str, source: str) -> int:
    if name not in tensors:
        raise CheckpointError(f"checkpoint {source}: tensor {name!r} is missing")
    if tensors[name].dim() != 2:
        raise CheckpointError(
            f"checkpoint {source}: tensor {name!r} has {tensors[name].dim()} dimensions; 2 are needed"
        )
    return int(tensors[name].shape[0])
