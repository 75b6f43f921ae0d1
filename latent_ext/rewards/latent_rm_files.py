"""LatentRMs on disk: the LatentTTS layout, and ours, which says more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from latent_ext.assets import SHIPPED_ANSWER_RM, SHIPPED_LATENT_RM
from latent_ext.models.checkpoint import (
    CheckpointError,
    cast_parameters,
    load_into,
    read_config,
    read_tensors,
    resolve,
)
from latent_ext.models.configs import body_config, build
from latent_ext.models.devices import as_device
from latent_ext.models.head_modules import add_head_modules
from latent_ext.rewards.answers import check_answer_format
from latent_ext.rewards.latent_rm import REFERENCES, LatentRM, LatentRMModule, Positions

LAYOUTS = ("latent_ext", "latenttts")

# By name: LatentRMs of the shipped generator, on thoughts alone and on thoughts and answers.
SHIPPED = {"shipped": SHIPPED_LATENT_RM, "answer_rm": SHIPPED_ANSWER_RM}

# The published Llama class defines this layer and never applies it.
_NEVER_APPLIED = "projecter."


def load_reward(
    path_or_hub_id: str | Path = "shipped",
    *,
    positions: Positions = "real",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> LatentRM:
    """Loads a LatentRM in the LatentTTS layout, or one that `save_reward` wrote.

    The former is ``COCONUTGPT2ForTokenClassification``, with CODI's projector or without, or
    ``COCONUTLlamaForTokenClassification`` with one output. The names "shipped" (on thoughts) and "answer_rm" (on thoughts
    and answers) are LatentRMs of the shipped generator. `positions` is "real" or "published", see `LatentRM`; the
    other parameters and the errors are those of :func:`latent_ext.load`.
    """
    place = as_device(device)
    if positions not in get_args(Positions):
        raise ValueError(f"positions: got {positions!r}; allowed are {', '.join(get_args(Positions))}")
    source = str(path_or_hub_id)
    directory = SHIPPED.get(source) or resolve(source, revision=revision, argument="reward")
    config = read_config(directory, "reward")
    tensors = read_tensors(directory, argument="reward")
    hf_config = body_config(config, tensors, source)
    llama = isinstance(hf_config, LlamaConfig)
    if not llama and not isinstance(hf_config, GPT2Config):
        raise CheckpointError(f"checkpoint {source}: a LatentRM on {hf_config.model_type!r} is not known")
    body = build(LlamaModel if llama else GPT2Model, hf_config, source)
    own_head = tensors.get("lm_head.weight")
    needed = (hf_config.vocab_size, hf_config.hidden_size)
    if own_head is not None and tuple(own_head.shape) != needed:
        raise CheckpointError(
            f"reward: {source} has lm_head.weight of shape {tuple(own_head.shape)}; {needed} is needed"
        )
    module = LatentRMModule(
        body,
        reliable="concentration.weight" in tensors,
        answers="evidence.weight" in tensors,
        vocabulary=None if own_head is None else hf_config.vocab_size,
    )
    if any(name.startswith("projector.") for name in tensors):
        add_head_modules(module, "codi", tensors, hf_config.hidden_size, source)
    cast_parameters(module, dtype)
    if llama:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_NEVER_APPLIED)}
    load_into(module, tensors, source=source)
    module.eval().requires_grad_(False)
    trained_on, reference = config.get("trained_on"), config.get("reference", "none")
    if reference not in REFERENCES:
        raise CheckpointError(
            f"reward: {source} has reference {reference!r} in config.json; allowed are {', '.join(REFERENCES)}"
        )
    answer_format = config.get("answer_format")
    if (module.evidence is None) != (answer_format is None):
        raise CheckpointError(
            f"reward: {source} has answer_format {answer_format!r} in config.json and "
            f"{'no' if module.evidence is None else 'a'} tensor evidence.weight; both or neither are needed"
        )
    if answer_format is not None:
        try:
            check_answer_format(answer_format)
        except ValueError as error:
            raise CheckpointError(f"reward: {source} has in config.json {error}") from None
    if positions == "published" and (reference != "none" or answer_format is not None):
        raise ValueError(
            f"positions: 'published' knows thoughts alone; {source} reads answers, too, so 'real' is needed"
        )
    recorded = trained_on if isinstance(trained_on, dict) else {}
    return LatentRM(module.to(place), source, recorded, positions, reference, answer_format)


def save_reward(
    reward: LatentRM,
    directory: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    layout: str = "latent_ext",
) -> None:
    """Writes a LatentRM as config.json and model.safetensors.

    Args:
        reward: a LatentRM.
        directory: made where it does not exist.
        dtype: of the weights on disk.
        layout: "latent_ext": all of it, with ``trained_on``, ``reference`` and ``answer_format`` in config.json, which
            readers of the published layout ignore; "latenttts": the published tensors alone, without a concentration head.

    Raises:
        ValueError: for another layout, or a LatentRM that the published code would read without the answers it needs.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: got {layout!r}; allowed are {', '.join(LAYOUTS)}")
    if layout == "latenttts" and (reward.reference != "none" or reward.answer_format is not None):
        raise ValueError(
            "layout: 'latenttts' has thoughts alone; without the answers that this LatentRM reads its scores mean nothing"
        )
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    body = reward.module.body
    family = "COCONUT" if reward.module.applied_projector is None else "CODI"
    written_by = f"{family}Llama" if isinstance(body, LlamaModel) else f"{family}GPT2"
    config = body.config.to_dict()
    config |= {"architectures": [f"{written_by}ForTokenClassification"]}
    tensors = {name: value.to(dtype).contiguous().cpu() for name, value in reward.module.state_dict().items()}
    if layout == "latent_ext":
        config |= {"trained_on": reward.trained_on, "reference": reward.reference}
        if reward.answer_format is not None:
            config |= {"answer_format": reward.answer_format}
    else:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("concentration.")}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
