"""``load``: a latent reasoning model from a directory, a file or the Hub, in any layout that was published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.models import lora
from latent_ext.models.checkpoint import CheckpointError, cast_parameters, load_into, read_config, resolve
from latent_ext.models.configs import body_config, build
from latent_ext.models.depth_checkpoint import is_depth, read_depth
from latent_ext.models.devices import as_device
from latent_ext.models.family import NO_TOKEN, Family
from latent_ext.models.head_modules import add_head_modules
from latent_ext.models.latent_model import LatentModel, hash_weights
from latent_ext.models.latent_tokens import tokenizer_of
from latent_ext.models.layouts import Checkpoint, Stored, read_layout
from latent_ext.models.layouts.base_model import BaseModel
from latent_ext.models.registry import FAMILIES, family_of, with_length
from latent_ext.models.semantics import semantics_of
from latent_ext.models.weight_files import find_weights, read_weights

_MODULES = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}


def load(
    path_or_hub_id: str | Path = "shipped",
    *,
    family: str | Family | None = None,
    latent_length: int | None = None,
    switches: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> LatentModel:
    """Loads a latent reasoning model.

    Args:
        path_or_hub_id: a directory or a weight file in it, a Hub id (offline once cached), or "shipped" for the small
            model in the package.
        family: a key of `latent_ext.models.registry.FAMILIES`, or an object with the methods of
            `latent_ext.models.family.Family` (docs/your-own-family.md), which takes the files of any family. Default: by
            the names of the tensors and the class or model_type in config.json; plain bodies (GPT-2, Llama, Qwen2) need
            it.
        latent_length: number of thoughts T, see `Family.latent_length`: the most where rows end by themselves, depth
            steps of depth recurrence. Default: that of config.json, else the family's (6; CoLaR 64, SIM-CoT's Coconut
            10); that of a family object.
        switches: changes to the behaviour of the layout's authors' code, by name
            (`latent_ext.models.semantics.Semantics`). A family object has none: its own ``semantics`` hold.
        base: directory or Hub id of the model it was trained from, for the config, tokenizer and frozen weights that
            some layouts leave out. Default: the published one.
        dtype: storage of the weights. Default: float32, or bfloat16 with ``switches={"lora": "unmerged"}``.
        device: where the model will be.
        revision: Hub revision.

    Returns:
        The model, in eval mode and without gradients.

    Raises:
        CheckpointError: one sentence that names the file or tensor at fault.
        ValueError: for an unknown family or switch, a latent_length that is no whole number >= 1 (or 0, where the
            number is fixed: no thoughts, the end token follows the prompt), or a device that is not there.
        TypeError: for a family that is neither a name nor a family object.

    Example:
        >>> import latent_ext
        >>> model = latent_ext.load()
        >>> model.family.name
        'coconut'
    """
    place = as_device(device)
    checkpoint = read_checkpoint(path_or_hub_id, family=family, base=base, revision=revision)
    source, tensors = checkpoint.source, checkpoint.tensors
    if family is None or isinstance(family, str):
        semantics = checkpoint.semantics.switched(switches or {}, checkpoint.family)
        chosen = family_of(checkpoint, semantics, latent_length)
    else:
        if switches:
            raise ValueError(f"switches: got {', '.join(switches)}; a family object has semantics of its own")
        semantics, chosen = semantics_of(family), with_length(family, latent_length)
    beside = semantics.lora == "unmerged"
    if beside and not lora.adapted(tensors, source):
        raise ValueError(f"switches: lora: got 'unmerged', but {source} has no adapters")
    if not beside:
        tensors = lora.merged(tensors, semantics.lora_alpha, source)
    hf: Any
    if is_depth(checkpoint.config):
        hf, tensors = read_depth(checkpoint.config, tensors, source)
        hf_config = hf.config
    else:
        hf_config = body_config(checkpoint.config, tensors, source)
        hf = build(_MODULES[hf_config.model_type], hf_config, source)
        add_head_modules(hf, checkpoint.family, tensors, hf_config.hidden_size, source)
    tokenizer = tokenizer_of(checkpoint)
    ids = chosen.ids(tokenizer)
    for role in ("start", "end", "eos"):
        token = getattr(ids, role)
        if token != NO_TOKEN and not 0 <= token < hf_config.vocab_size:
            raise CheckpointError(
                f"checkpoint {source}: token id {token} ({role}) is outside the embedding of "
                f"{hf_config.vocab_size} rows"
            )
    cast_parameters(hf, dtype or (torch.bfloat16 if beside else torch.float32))
    if beside:
        tensors = lora.attach(hf, tensors, semantics.lora_alpha, source)
    tied = ("lm_head.weight",) if hf_config.tie_word_embeddings else ()
    load_into(hf, tensors, tied=tied, source=source)
    hf.tie_weights()
    hf.eval().requires_grad_(False)
    model = LatentModel(hf, tokenizer, chosen, ids, source, hash_weights(hf))
    _ = model.answer_head  # an end token that cannot be left out is refused here
    hf.to(place)
    return model


def read_checkpoint(
    path_or_hub_id: str | Path,
    *,
    family: str | Family | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """A checkpoint's tensors in this package's names; arguments and errors are those of `load`."""
    own = not (family is None or isinstance(family, str))
    if isinstance(family, str) and family not in FAMILIES:
        raise ValueError(f"family: got {family!r}; allowed are {', '.join(FAMILIES)}")
    if own and not callable(getattr(family, "thought_head", None)):
        raise TypeError(
            f"family: got {type(family).__name__}; a name or an object with the methods of Family is needed"
        )
    name: str | None = family if family is None or isinstance(family, str) else family.name
    source = str(path_or_hub_id)
    local = Path(path_or_hub_id).expanduser()
    if source == "shipped":
        directory, file = SHIPPED_GENERATOR, SHIPPED_GENERATOR / "model.safetensors"
    elif local.is_file():
        directory, file = local.parent, local
    else:
        directory = resolve(path_or_hub_id, revision=revision)
        file = find_weights(directory)
    config = read_config(directory) if (directory / "config.json").is_file() else None
    stored = Stored(source, directory, file.name, config, read_weights(file), BaseModel(base))
    return read_layout(stored, name, own=own)
