"""A reward without training: how far each thought is from what the model would have thought without noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent_ext import ops
from latent_ext.models.family import ThoughtHead, apply_stages
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.reward import Need, Scored, Seen

# Trajectories of a question that are re-read together.
_ROWS = 64


@dataclass(frozen=True)
class Deviation:
    """Score of step t = minus the squared Euclidean distance of z_t to the noise-free prediction from z_1..z_{t-1}.

    Prompt and previous thoughts are re-read without dropout, so under Monte-Carlo dropout the distance is what the
    masks did to this thought. Under Gaussian noise alone it is the length of the noise that was drawn, known in
    distribution from sigma and blind to the reasoning: `concerns` says so.
    """

    name: str = "deviation"
    needs: frozenset[Need] = frozenset({"thoughts"})
    by_trajectory: bool = True

    def concerns(self, sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
        members = sampler.get("samplers") or [sampler]
        if any(one.get("sigma") and not (one.get("p") or one.get("svp") or one.get("wv")) for one in members):
            return [
                f"deviation under {sampler['sampler']!r} is the length of the drawn noise, known from sigma alone; "
                "it tells trajectories apart by chance"
            ]
        return []

    def score(self, model: LatentModel, seen: Seen) -> Sequence[Scored]:
        assert seen.thoughts is not None
        return [
            (-(thoughts.float() - predicted).square().sum(dim=1)).tolist()
            for thoughts, predicted in zip(
                seen.thoughts, predictions(model, seen.prompt, seen.thoughts), strict=True
            )
        ]


def check_deviation(model: LatentModel) -> ThoughtHead:
    """The head by which a model states its next thought.

    Raises:
        ValueError: for a model whose next thought is a rule of its own or a depth step.
    """
    if not isinstance(model.feedback, ThoughtHead):
        raise ValueError(
            f"reward: 'deviation' needs thoughts that are fed back at positions of their own through a stated head; "
            f"those of {model.name} are not"
        )
    return model.feedback


@torch.no_grad()
def predictions(model: LatentModel, prompt: Tensor, thoughts: Sequence[Tensor]) -> list[Tensor]:
    """What every thought would have been without noise, given those before it.

    Args:
        model: whose thoughts are stated by a `ThoughtHead`.
        prompt: int64 [length] ids.
        thoughts: per trajectory [steps, hidden].

    Returns:
        Per trajectory fp32 [steps, hidden] on the CPU.

    Raises:
        ValueError: as `check_deviation`.
    """
    head = check_deviation(model)
    embedded = model.body.get_input_embeddings()(prompt)
    predicted: list[Tensor] = []
    for start in range(0, len(thoughts), _ROWS):
        part = thoughts[start : start + _ROWS]
        # Shorter rows are padded behind their last thought, where causality hides the pads.
        before = nn.utils.rnn.pad_sequence([own[:-1] for own in part], batch_first=True)
        before = before.to(embedded.device, embedded.dtype)
        inputs = torch.cat([embedded.expand(len(part), -1, -1), before], dim=1)
        read = model.body(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, len(prompt) - 1 :]
        hidden = read.reshape(-1, read.shape[2])
        clean = torch.empty_like(hidden)
        nothing = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
        # sigma = 0: norm and scale alone; keys and positions draw nothing.
        ops.next_thought_reference(
            apply_stages(head.stages, hidden), head.weight, head.bias, None, nothing, nothing, nothing[:1],
            eps=head.eps, norm=head.norm, scale=head.scale, next_input=clean,
        )  # fmt: skip
        rows = clean.reshape(read.shape).float().cpu()
        predicted += [row[: len(own)] for row, own in zip(rows, part, strict=True)]
    return predicted
