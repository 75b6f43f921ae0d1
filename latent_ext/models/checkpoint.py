"""Checkpoints on disk: a local directory or a Hub repository, every tensor checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn

TEXT_FILES = ("*.json", "*.txt", "*.model")
_FILES = (*TEXT_FILES, "*.safetensors", "pytorch_model.bin", "checkpoint_*", "*.ckpt")
# Buffers and duplicates that published checkpoints carry and no computation reads.
_IGNORABLE = re.compile(r"(\.attn\.(bias|masked_bias)|\.rotary_emb\.inv_freq|^embedding\.weight)$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file or the tensor and what was expected."""


def resolve(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    files: tuple[str, ...] = _FILES,
    argument: str = "model",
) -> Path:
    """The local directory of a checkpoint; a Hub id is downloaded once and then read offline from the cache.

    Args:
        path_or_hub_id: a directory or ``owner/name``.
        revision: of the Hub repository.
        files: patterns of the files to download.
        argument: whose value it is; errors name it.

    Raises:
        CheckpointError: if there is neither such a directory nor such a repository, or the Hub cannot be
            reached and nothing is cached.
    """
    local = Path(path_or_hub_id).expanduser()
    if local.is_dir():
        return local
    name = str(path_or_hub_id)
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"{argument}: {name!r} is neither a directory nor a Hub id of the form owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{argument}: {name!r} is not in the local cache and could not be downloaded: {reason}"
        ) from None


def read_config(directory: Path, argument: str = "model") -> dict:
    """The parsed ``config.json`` of a checkpoint directory; errors name `argument`, whose value the directory is."""
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{argument}: {directory} has no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{argument}: {path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{argument}: {path} holds {type(config).__name__}; an object is needed")
    return config


def read_tensors(
    directory: Path, file: str = "model.safetensors", argument: str = "model"
) -> dict[str, Tensor]:
    """All tensors of a safetensors checkpoint: `file`, or the shards that its index names; errors name `argument`."""
    index = directory / f"{file}.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{argument}: {index} is not a safetensors index: {error}") from None
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise CheckpointError(f"{argument}: {index} names a shard outside its own directory")
    else:
        names = [file]
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors.update(_read_file(directory / name, argument))
    return tensors


def _read_file(path: Path, argument: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{argument}: {path.parent} has no {path.name}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{argument}: {path} is truncated or not a safetensors file: {error}") from None


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts the parameters of `module` in place, and nothing else.

    ``module.to(dtype)`` would also round the rotary frequencies, which are a buffer: in bfloat16 a Llama would
    then read other positions than the ones it was trained with.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def load_into(
    module: nn.Module, tensors: dict[str, Tensor], *, tied: tuple[str, ...] = (), source: str = ""
) -> None:
    """Copies ``tensors`` into ``module``, demanding that every parameter is found with its own shape.

    Args:
        module: freshly built from the checkpoint's config.
        tensors: by name; values are cast to the module's dtype.
        tied: names that share another parameter's storage and may be absent.
        source: named in errors.

    Raises:
        CheckpointError: naming the first tensor that is missing, superfluous, misshapen or not floating
            point.
    """
    expected = dict(module.named_parameters())
    given = {
        name: tensor for name, tensor in tensors.items() if not _IGNORABLE.search(name) and name not in tied
    }
    for name, parameter in expected.items():
        if name in tied:
            continue
        if name not in given:
            raise CheckpointError(
                f"checkpoint {source}: tensor {name!r} of shape {tuple(parameter.shape)} is missing"
            )
        tensor = given.pop(name)
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"checkpoint {source}: tensor {name!r} has shape {tuple(tensor.shape)}; "
                f"the config asks for {tuple(parameter.shape)}"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"checkpoint {source}: tensor {name!r} has dtype {tensor.dtype}; floats are needed"
            )
        with torch.no_grad():
            parameter.copy_(tensor)
    if given:
        raise CheckpointError(f"checkpoint {source}: tensor {min(given)!r} belongs to no part of the model")
