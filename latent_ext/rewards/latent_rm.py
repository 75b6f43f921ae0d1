"""LatentRM: a copy of the backbone with a scalar head that scores every thought (LatentTTS, section 3.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_heads import projector_stages
from latent_ext.rewards.reward import Need, Seen, trained_elsewhere

Positions = Literal["real", "published"]

# The published Llama class defines this layer and never applies it.
_NEVER_APPLIED = "projecter."
REFERENCES = ("none", "answer")
LAYOUTS = ("latent_ext", "latenttts")


class LatentRMModule(nn.Module):
    """Parameters in the LatentTTS layout: the body's, ``classifier.{weight [1, d], bias [1]}`` and, for CODI,
    ``projector.{1,3,4}.*`` between the two.

    Args:
        body: a ``GPT2Model``, whose parameters are named ``transformer.*``, or a ``LlamaModel``: ``model.*``.
        reliable: with a second head, ``concentration.{weight [1, d], bias [1]}``, which the published layout does
            not have: how sure the first one is (Beta-Binomial, arXiv 2605.15529).
    """

    def __init__(self, body: PreTrainedModel, *, reliable: bool = False) -> None:
        super().__init__()
        self._body_name = body.base_model_prefix
        self.add_module(self._body_name, body)
        self.classifier = nn.Linear(body.config.hidden_size, 1)
        self.concentration = nn.Linear(body.config.hidden_size, 1) if reliable else None

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
        reference: "none", or "answer": it reads the noise-free answer of the generator between question and
            thoughts, see `prompt`.
    """

    module: LatentRMModule
    name: str
    trained_on: dict[str, Any] = field(default_factory=dict)
    positions: Positions = "real"
    reference: str = "none"

    def prompt(self, prompt: Tensor, noise_free_answer: Sequence[int], steps: int) -> Tensor:
        """What this LatentRM reads before the thoughts.

        Args:
            prompt: int64 [length], the generator's prompt ids.
            noise_free_answer: tokens of the generator's answer without any randomness; only read with
                ``reference="answer"``, where they stand before the prompt's last token. Of an answer for which there
                are too few positions the end is read.
            steps: T thoughts that will follow.
        """
        if self.reference == "none":
            return prompt
        room = max(0, self.blocks.max_positions - len(prompt) - steps)
        tokens = list(noise_free_answer)[-room:] if room else []
        return torch.cat(
            [prompt[:-1], torch.tensor(tokens, dtype=torch.int64, device=prompt.device), prompt[-1:]]
        )

    @property
    def needs(self) -> frozenset[Need]:
        """Thoughts; with a reference the noise-free answer, too."""
        return frozenset({"thoughts"} if self.reference == "none" else {"thoughts", "noise_free"})

    def concerns(self, sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
        """How the trajectories to be scored differ from those this LatentRM was trained on; see `Reward`."""
        return trained_elsewhere(self.name, self.trained_on, sampler, generator_hash)

    @torch.no_grad()
    def score(self, model: LatentModel, seen: Seen) -> list[list[float]]:
        """Step scores of one question's trajectories in plain PyTorch; engines compute those at real positions faster."""
        from latent_ext.rewards.published_positions import score_as_published

        assert seen.thoughts is not None
        if self.positions == "published":
            scores = score_as_published(self, seen.prompt, seen.thoughts, seen.tokens)
            return [own.tolist() for own in scores]
        body, place = self.module.body, self.head_weight
        scored = []
        for own in seen.thoughts:
            read = self.prompt(seen.prompt, seen.noise_free_tokens, len(own))
            embedded = body.get_input_embeddings()(read.to(place.device))
            inputs = torch.cat([embedded, own.to(place.device, place.dtype)]).unsqueeze(0)
            hidden = body(inputs_embeds=inputs, use_cache=False).last_hidden_state
            scored.append(self.module.score(hidden[0, len(read) :]).float().tolist())
        return scored

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
    shipped = source == "shipped"
    directory = SHIPPED_LATENT_RM if shipped else resolve(source, revision=revision, argument="reward")
    config = read_config(directory, "reward")
    tensors = read_tensors(directory, argument="reward")
    hf_config = body_config(config, tensors, source)
    llama = isinstance(hf_config, LlamaConfig)
    if not llama and not isinstance(hf_config, GPT2Config):
        raise CheckpointError(f"checkpoint {source}: a LatentRM on {hf_config.model_type!r} is not known")
    body = build(LlamaModel if llama else GPT2Model, hf_config, source)
    module = LatentRMModule(body, reliable="concentration.weight" in tensors)
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
    if reference != "none" and positions == "published":
        raise ValueError(
            f"positions: 'published' knows no reference; {source} reads the noise-free answer, so 'real' is needed"
        )
    recorded = trained_on if isinstance(trained_on, dict) else {}
    return LatentRM(module.to(place), source, recorded, positions, reference)


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
        layout: "latent_ext": all of it, with ``trained_on`` and ``reference`` in config.json, which readers of the
            published layout ignore; "latenttts": the published tensors alone, without a concentration head.

    Raises:
        ValueError: for another layout, or a LatentRM that the published code would read without its reference.
    """
    from safetensors.torch import save_file

    if layout not in LAYOUTS:
        raise ValueError(f"layout: got {layout!r}; allowed are {', '.join(LAYOUTS)}")
    if layout == "latenttts" and reward.reference != "none":
        raise ValueError(
            f"layout: 'latenttts' has no place for reference {reward.reference!r}, without which scores mean nothing"
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
    else:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("concentration.")}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
