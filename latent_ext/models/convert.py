"""``convert``: a checkpoint from one published layout into another, bit for bit where nothing is to be merged."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latent_ext.models import lora
from latent_ext.models.latent_tokens import name_tokens, tokenizer_of
from latent_ext.models.layouts import LAYOUTS, Checkpoint
from latent_ext.models.load import load, read_checkpoint

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    family: str | None = None,
    base: str | Path | None = None,
    lossy: bool = False,
) -> dict[str, Any]:
    """Writes a checkpoint in another layout.

    Tensors keep their bits and dtypes; the config and the tokenizer come along. Auxiliary tensors of training that no
    inference reads are kept within a layout and dropped by others.

    Args:
        source: what `latent_ext.load` takes; it is loaded first, so that a faulty one is refused.
        target: a directory that does not exist or is empty; it appears when all is written.
        to: a key of `latent_ext.models.layouts.LAYOUTS`.
        family: as of `load`.
        base: as of `load`.
        lossy: give up what `to` cannot hold: adapters are merged (in float32, adapted weights stay in it), the
            deviation of a Gaussian head is left out.

    Returns:
        The switches with which the result behaves as its source did; empty where its layout does by itself.

    Raises:
        CheckpointError: as `load`.
        ValueError: naming what `to` cannot hold, or the argument at fault.
    """
    if to not in LAYOUTS:
        raise ValueError(f"to: got {to!r}; allowed are {', '.join(LAYOUTS)}")
    place = Path(target).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"target: {place} exists; a new or empty directory is needed")
    checkpoint = read_checkpoint(source, family=family, base=base)
    layout = LAYOUTS[to]
    if checkpoint.family not in layout.families:
        raise ValueError(
            f"to: layout {to!r} holds family {' or '.join(layout.families)}; {source} is {checkpoint.family!r}"
        )
    model = load(source, family=family, base=base)
    if lossy and to == "latenttts":
        checkpoint = _without_what_is_lost(checkpoint, model.semantics.lora_alpha)
    checkpoint = replace(checkpoint, start=model.ids.start, end=model.ids.end)
    try:
        file, tensors, config = layout.stored_names(checkpoint)
    except ValueError as error:
        raise ValueError(
            f"{error}; --lossy gives it up" if "holds no" in str(error) else str(error)
        ) from None
    tokenizer = tokenizer_of(checkpoint)
    changed = bool(checkpoint.new_tokens) and to == "latenttts"
    if to == "latenttts" and checkpoint.family == "codi":
        ids = {"<|start-latent|>": model.ids.start, "<|end-latent|>": model.ids.end}
        changed = name_tokens(tokenizer, ids)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as scratch:
        written = Path(scratch) / "checkpoint"
        written.mkdir()
        _write_tensors(tensors, written / file)
        (written / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _write_tokenizer(tokenizer if changed else None, checkpoint, written)
        if place.exists():
            place.rmdir()
        written.rename(place)
    return _kept_switches(checkpoint, to)


def _without_what_is_lost(checkpoint: Checkpoint, alpha: int) -> Checkpoint:
    tensors = lora.merged(checkpoint.tensors, alpha, checkpoint.source)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("lt_head.log_std.")}
    return replace(checkpoint, tensors=kept)


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        # The format holds no shared storage.
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    else:
        torch.save({"state_dict": tensors} if path.suffix == ".ckpt" else tensors, path)


def _write_tokenizer(changed: PreTrainedTokenizerBase | None, checkpoint: Checkpoint, target: Path) -> None:
    if changed is not None:
        changed.save_pretrained(target)
        return
    for name in _TOKENIZER_FILES:
        if (checkpoint.tokenizer_directory / name).is_file():
            shutil.copyfile(checkpoint.tokenizer_directory / name, target / name)


def _kept_switches(checkpoint: Checkpoint, to: str) -> dict[str, Any]:
    usual = asdict(LAYOUTS[to].semantics(checkpoint.family))
    return {name: value for name, value in asdict(checkpoint.semantics).items() if usual[name] != value}
