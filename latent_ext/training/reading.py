"""A LatentRM with a gradient: all trajectories of a question in one pass over one copy of its prompt."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRMModule
from latent_ext.rewards.reliability import concentration_of
from latent_ext.training.labelled import Batch


@dataclass(frozen=True)
class Reading:
    """What a LatentRM says of a batch.

    Attributes:
        scores: float32 [questions, N, T], step scores.
        concentration: float32 [questions, N, T], or None without such a head.
    """

    scores: Tensor
    concentration: Tensor | None


class TrainableLatentRM(LatentRMModule):
    """`LatentRMModule` with a forward: parameters and their names are the same."""

    def forward(self, batch: Batch, thoughts: Tensor | None = None) -> Reading:
        """Scores every thought of a batch.

        Args:
            batch: laid out by `collate`.
            thoughts: read in place of those of the batch, same shape.
        """
        embed: Any = self.body.get_input_embeddings()  # typed as any module
        fed = batch.thoughts if thoughts is None else thoughts
        longest = batch.ids.shape[1]
        inputs = torch.cat([embed(batch.ids), fed.to(embed.weight.dtype)], dim=1)
        hidden = self.body(
            inputs_embeds=inputs,
            attention_mask=batch.mask.to(inputs.dtype),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state[:, longest:]
        raw = None if self.concentration is None else self.concentration(hidden).float()
        shape = batch.counts.shape
        return Reading(
            self.classifier(hidden).float().reshape(shape),
            None if raw is None else concentration_of(raw.reshape(shape)),
        )


def from_generator(model: LatentModel, *, reliable: bool = False, dropout: float = 0.0) -> TrainableLatentRM:
    """A LatentRM that starts from the generator's body, with a head that scores everything 0 (LatentTTS, 3.2).

    Args:
        model: the generator; not changed.
        reliable: with a concentration head, which says 4 for every thought.
        dropout: of every dropout layer while it trains.
    """
    module = TrainableLatentRM(copy.deepcopy(model.body), reliable=reliable)
    nn.init.zeros_(module.classifier.weight)
    nn.init.zeros_(module.classifier.bias)
    if module.concentration is not None:
        nn.init.zeros_(module.concentration.weight)
        nn.init.constant_(module.concentration.bias, 4.0)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    return module.float().requires_grad_(True)
