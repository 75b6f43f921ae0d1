"""Weight files of a checkpoint directory: which one holds the weights, and its tensors, read without running code."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from latent_ext.models.checkpoint import CheckpointError, read_tensors

_EPOCH = re.compile(r"checkpoint_\d+")
SAFETENSORS = "model.safetensors"


def find_weights(directory: Path) -> Path:
    """The file that holds a directory's weights: safetensors first, then what ``torch.save`` wrote.

    Raises:
        CheckpointError: if there is none, or several that could be meant.
    """
    if (directory / SAFETENSORS).is_file() or (directory / f"{SAFETENSORS}.index.json").is_file():
        return directory / SAFETENSORS
    saved = sorted(
        path
        for path in directory.iterdir()
        if path.is_file()
        and (path.name == "pytorch_model.bin" or path.suffix == ".ckpt" or _EPOCH.fullmatch(path.name))
    )
    if not saved:
        raise CheckpointError(
            f"model: {directory} has no {SAFETENSORS} "
            "(nor a pytorch_model.bin, checkpoint_N or .ckpt of an original layout)"
        )
    if len(saved) > 1:
        names = ", ".join(path.name for path in saved[:5])
        raise CheckpointError(f"model: {directory} has several weight files ({names}); name the file itself")
    return saved[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file, by the names that stand in it.

    Raises:
        CheckpointError: if the file is missing, truncated, or holds anything but named tensors.
    """
    if path.name == SAFETENSORS:
        return read_tensors(path.parent)
    if path.suffix == ".safetensors":
        return read_tensors(path.parent, path.name)
    if not path.is_file():
        raise CheckpointError(f"model: {path.parent} has no {path.name}")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file provokes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"model: {path} is truncated, or no file of tensors alone (nothing else is read): {reason}"
        ) from None
    if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):
        held = held["state_dict"]
    if not isinstance(held, dict) or not held:
        raise CheckpointError(f"model: {path} holds {type(held).__name__}; named tensors are needed")
    for name, tensor in held.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"model: {path} holds {type(tensor).__name__} under {str(name)[:80]!r}; tensors are needed"
            )
        _check_storage(path, name, tensor)
    return dict(held)


def _check_storage(path: Path, name: str, tensor: Tensor) -> None:
    # A tensor whose strides make one byte look like a terabyte must not reach a copy.
    plain = tensor.layout is torch.strided and not tensor.is_quantized
    if not plain or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise CheckpointError(f"model: {path}: tensor {name!r} is not stored in full as a plain tensor")
