"""LatentRM: a copy of the backbone with a scalar head that scores every thought (LatentTTS, section 3.2)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel, PreTrainedModel

from latent_ext.assets import SHIPPED_LATENT_RM
from latent_ext.models.blocks import Blocks, blocks_of
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
from latent_ext.models.family import HeadStage
from latent_ext.models.head_modules import add_head_modules
from latent_ext.models.thought_heads import projector_stages

Positions = Literal["real", "published"]

# The published Llama class defines this layer and never applies it.
_NEVER_APPLIED = "projecter."


class LatentRMModule(nn.Module):
    """Parameters in the LatentTTS layout: the body's, ``classifier.{weight [1, d], bias [1]}`` and, for CODI,
    ``projector.{1,3,4}.*`` between the two.

    Args:
        body: a ``GPT2Model``, whose parameters are named ``transformer.*``, or a ``LlamaModel``: ``model.*``.
    """

    def __init__(self, body: PreTrainedModel) -> None:
        super().__init__()
        self._body_name = body.base_model_prefix
        self.add_module(self._body_name, body)
        self.classifier = nn.Linear(body.config.hidden_size, 1)

    @property
    def body(self) -> PreTrainedModel:
        """What reads prompt and thoughts."""
        body = self.get_submodule(self._body_name)
        assert isinstance(body, PreTrainedModel)
        return body

    @property
    def applied_projector(self) -> nn.Module | None:
        """CODI's projector; None where the score is read off the hidden state itself."""
        return dict(self.named_children()).get("projector")

    def score(self, hidden: Tensor) -> Tensor:
        """Final-norm hidden states (..., d) -> scores (...)."""
        projector = self.applied_projector
        return self.classifier(hidden if projector is None else projector(hidden)).squeeze(-1)


@dataclass
class LatentRM:
    """A reward on thoughts: the score of step t is the head's output at the position of z_t.

    The prompt is read with its real positions; the thoughts follow as they were fed to the generator. A
    trajectory's score is the sum of its step scores, as published.

    Attributes:
        module: in eval mode.
        name: what `load_reward` was given.
        trained_on: sampler, scope, sites and generator hash of the trajectories it was trained on (empty if
            not recorded).
        positions: "real": a thought's own, whatever runs beside it. "published": LatentTTS gives no position ids, so
            the pads to the left of a shorter sequence are counted; `latent_ext.solve` then decodes every answer and
            scores a question's trajectories as one padded batch.
    """

    module: LatentRMModule
    name: str
    trained_on: dict[str, Any] = field(default_factory=dict)
    positions: Positions = "real"

    @property
    def blocks(self) -> Blocks:
        return blocks_of(self.module.body)

    @property
    def stages(self) -> tuple[HeadStage, ...]:
        """What stands between the hidden state and the scalar head: CODI's projector, or nothing."""
        return (
            () if self.module.applied_projector is None else projector_stages(self.module.applied_projector)
        )

    @property
    def head_weight(self) -> Tensor:
        """(hidden,)"""
        return self.module.classifier.weight[0]

    @property
    def head_bias(self) -> Tensor:
        """(1,)"""
        return self.module.classifier.bias


def load_reward(
    path_or_hub_id: str | Path = "shipped",
    *,
    positions: Positions = "real",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> LatentRM:
    """Loads a LatentRM in the LatentTTS layout.

    That is ``COCONUTGPT2ForTokenClassification``, with CODI's projector or without, or
    ``COCONUTLlamaForTokenClassification`` with one output. `positions` is "real" or "published", see `LatentRM`; the
    other parameters and the errors are those of :func:`latent_ext.load`.
    """
    place = as_device(device)
    if positions not in get_args(Positions):
        raise ValueError(f"positions: got {positions!r}; allowed are {', '.join(get_args(Positions))}")
    source = str(path_or_hub_id)
    directory = SHIPPED_LATENT_RM if source == "shipped" else resolve(path_or_hub_id, revision=revision)
    config = read_config(directory)
    tensors = read_tensors(directory)
    hf_config = body_config(config, tensors, source)
    llama = isinstance(hf_config, LlamaConfig)
    if not llama and not isinstance(hf_config, GPT2Config):
        raise CheckpointError(f"checkpoint {source}: a LatentRM on {hf_config.model_type!r} is not known")
    module = LatentRMModule(build(LlamaModel if llama else GPT2Model, hf_config, source))
    if any(name.startswith("projector.") for name in tensors):
        add_head_modules(module, "codi", tensors, hf_config.hidden_size, source)
    cast_parameters(module, dtype)
    if llama:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_NEVER_APPLIED)}
    load_into(module, tensors, source=source)
    module.eval().requires_grad_(False)
    trained_on = config.get("trained_on")
    recorded = trained_on if isinstance(trained_on, dict) else {}
    return LatentRM(module.to(place), source, recorded, positions)


def save_reward(reward: LatentRM, directory: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes a LatentRM in the LatentTTS layout, with ``trained_on`` in its config.json."""
    from safetensors.torch import save_file

    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    body = reward.module.body
    family = "COCONUT" if reward.module.applied_projector is None else "CODI"
    written_by = f"{family}Llama" if isinstance(body, LlamaModel) else f"{family}GPT2"
    config = body.config.to_dict()
    config |= {"architectures": [f"{written_by}ForTokenClassification"], "trained_on": reward.trained_on}
    tensors = {name: value.to(dtype).contiguous().cpu() for name, value in reward.module.state_dict().items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
