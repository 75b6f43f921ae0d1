"""A LatentRM with a gradient: all trajectories of a question in one pass over one copy of its prompt."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.answer_reading import AnswerReading
from latent_ext.rewards.answers import read_answers
from latent_ext.rewards.latent_rm import LatentRMModule
from latent_ext.rewards.reliability import concentration_of
from latent_ext.training.labelled import Batch


@dataclass(frozen=True)
class Reading:
    """What a LatentRM says of a batch.

    Attributes:
        scores: float32 [questions, N, T], step scores; where answers are read [questions, N, 1], of whole trajectories.
        concentration: float32, likewise, or None without such a head.
        gold_likelihood: float32 [questions, N], log probability of the gold answer behind each trajectory's thoughts; None
            where it was not read.
    """

    scores: Tensor
    concentration: Tensor | None
    gold_likelihood: Tensor | None = None


class TrainableLatentRM(LatentRMModule):
    """`LatentRMModule` with a forward: parameters and their names are the same."""

    def forward(self, batch: Batch, thoughts: Tensor | None = None) -> Reading:
        """Scores every thought of a batch, or every answer where the LatentRM reads answers.

        Args:
            batch: laid out by `collate`.
            thoughts: read in place of those of the batch, same shape.
        """
        embed: Any = self.body.get_input_embeddings()  # typed as any module
        fed = batch.thoughts if thoughts is None else thoughts
        if self.evidence is not None:
            return self._read_answers(batch, fed)
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

    def _read_answers(self, batch: Batch, thoughts: Tensor) -> Reading:
        count, steps = batch.counts.shape[1:]
        with_gold = batch.golds.shape[1] > 0
        read = read_answers(
            self,
            batch.ids,
            batch.positions,
            batch.mask,
            thoughts.unflatten(1, (count, steps)),
            batch.answers,
            batch.answer_lengths,
            batch.known,
            batch.given,
            batch.golds if with_gold else None,
            batch.gold_lengths if with_gold else None,
        )
        raw = None if self.concentration is None else self.concentration(read.at_end).float()
        return Reading(
            read.scores.unsqueeze(2), None if raw is None else concentration_of(raw), read.gold_likelihood
        )


def from_generator(
    model: LatentModel,
    *,
    reliable: bool = False,
    dropout: float = 0.0,
    known_answers: AnswerReading | None = None,
) -> TrainableLatentRM:
    """A LatentRM that starts from the generator's body, with a head that scores everything 0 (LatentTTS, 3.2).

    Args:
        model: the generator; not changed.
        reliable: with a concentration head, which says 4 for every thought.
        dropout: of every dropout layer while it trains.
        known_answers: of a LatentRM that reads answers: what its score starts from. Half of the weight of confidence goes
            to the LatentRM's own log probability, which is the generator's at the start.
    """
    output = model.lm_head
    tied = output is model.body.get_input_embeddings().weight
    module = TrainableLatentRM(
        copy.deepcopy(model.body),
        reliable=reliable,
        answers=known_answers is not None,
        vocabulary=None if tied else len(output),
    )
    if module.lm_head is not None:
        module.lm_head.weight.data.copy_(output)
    if module.evidence is not None and known_answers is not None:
        half = known_answers.confidence / 2.0
        module.evidence.weight.data.copy_(torch.tensor([[known_answers.agreement, half, half]]))
    nn.init.zeros_(module.classifier.weight)
    nn.init.zeros_(module.classifier.bias)
    if module.concentration is not None:
        nn.init.zeros_(module.concentration.weight)
        nn.init.constant_(module.concentration.bias, 4.0)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    return module.float().requires_grad_(True)
