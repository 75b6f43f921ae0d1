"""What a baseline is asked and what it gives back; the batch of prompts, and the choice, that both share."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Model

from latent_ext.models.coconut import Coconut
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler
from latent_ext.search.select import SELECTORS

# transformers 5.24 renamed the argument and warns at the old name.
CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"


@dataclass(frozen=True)
class Task:
    """N trajectories for each question, scored by a LatentRM, and one chosen.

    Attributes:
        model: a generator that feeds its last hidden state back (COCONUT).
        reward: the LatentRM.
        questions: texts.
        n: trajectories per question.
        sampler: noise, or dropout with a fresh mask per position, in either scope.
        select: "best_of_n" or "weighted_vote".
        max_answer_tokens: longest answer.

    Raises:
        ValueError: for a family or a sampler that the baselines do not have.
    """

    model: LatentModel
    reward: LatentRM
    questions: Sequence[str]
    n: int
    sampler: Sampler
    select: str
    max_answer_tokens: int

    def __post_init__(self) -> None:
        if not isinstance(self.model.family, Coconut):
            raise ValueError(f"model: family {self.model.family.name!r}; the baselines run coconut")
        dropout = self.sampler.dropout
        if dropout is not None and (dropout.per != "step" or dropout.sites != "residual"):
            raise ValueError(
                f"sampler: got {self.sampler}, sites {dropout.sites!r}; the baselines drop at the residual "
                "sites, with a fresh mask for every position"
            )

    @property
    def rows(self) -> int:
        """Row r is trajectory ``r % n`` of question ``r // n``."""
        return self.n * len(self.questions)

    @property
    def body(self) -> Any:
        """The generator without its LM head."""
        return self.model.hf.base_model

    @property
    def reward_body(self) -> Any:
        """The LatentRM without its classifier."""
        return self.reward.module.body

    @property
    def embedding(self) -> nn.Module:
        return self.model.hf.get_input_embeddings()

    @property
    def latent_length(self) -> int:
        return self.model.family.latent_length


@dataclass(frozen=True)
class Prompts:
    """Prompts of several questions as one batch, padded on the left so that all end together.

    Attributes:
        ids: int64 [questions, longest].
        positions: int64 [questions, longest], without padding (0 at pads).
        lengths: int64 [questions].
        mask: int64 [questions, longest], 0 at pads; None where nothing is padded.
    """

    ids: Tensor
    positions: Tensor
    lengths: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, model: LatentModel, questions: Sequence[str]) -> Prompts:
        encoded = [model.encode(question) for question in questions]
        lengths = torch.tensor([len(prompt) for prompt in encoded])
        longest = int(lengths.max())
        ids = torch.full((len(encoded), longest), model.ids.pad)
        for row, prompt in enumerate(encoded):
            ids[row, longest - len(prompt) :] = prompt
        place = torch.arange(longest) - (longest - lengths).unsqueeze(1)
        mask = (place >= 0).long()
        return cls(ids, place.clamp_min(0), lengths, None if bool(mask.all()) else mask)

    def select(self, rows: Tensor) -> Prompts:
        """The same prompts, one per entry of `rows`."""
        mask = None if self.mask is None else self.mask[rows]
        return Prompts(self.ids[rows], self.positions[rows], self.lengths[rows], mask)

    def mask_to(self, end: int) -> Tensor | None:
        """The mask of a sequence of `end` places that begins with these prompts, or None where none is needed."""
        if self.mask is None:
            return None
        if end <= self.mask.shape[1]:
            return self.mask[:, :end]
        return torch.nn.functional.pad(self.mask, (0, end - self.mask.shape[1]), value=1)


@dataclass(frozen=True)
class Outcome:
    """What a baseline found, by question and trajectory.

    Attributes:
        scores: fp32 [questions, n], summed step scores.
        step_scores: fp32 [questions, n, T].
        tokens: answer token ids without the end-of-sequence token; None where it was not decoded.
        answers: canonical answers; None where there is none.
        chosen: the chosen trajectory of each question; None where nothing could be chosen.
    """

    scores: Tensor
    step_scores: Tensor
    tokens: list[list[list[int] | None]]
    answers: list[list[str | None]]
    chosen: list[int | None]


def until_end(row: Sequence[int], eos: int) -> list[int]:
    """The tokens before the first end-of-sequence token."""
    listed = list(row)
    return listed[: listed.index(eos)] if eos in listed else listed


def choose(task: Task, step_scores: Tensor, tokens: dict[int, list[int]]) -> Outcome:
    """Reads the decoded answers and applies the selection rule.

    Args:
        task: what was asked.
        step_scores: fp32 [rows, T].
        tokens: answers by row, of the rows that were decoded.
    """
    count = len(task.questions)
    by_row = [tokens.get(row) for row in range(task.rows)]
    answers = [
        None if written is None else task.model.family.answer(task.model.decode(written))
        for written in by_row
    ]
    total = step_scores.sum(dim=1)
    listed = total.tolist()
    chosen = [
        SELECTORS[task.select](answers[first : first + task.n], listed[first : first + task.n]).chosen
        for first in range(0, task.rows, task.n)
    ]
    return Outcome(
        total.reshape(count, task.n),
        step_scores.reshape(count, task.n, -1),
        [by_row[first : first + task.n] for first in range(0, task.rows, task.n)],
        [answers[first : first + task.n] for first in range(0, task.rows, task.n)],
        chosen,
    )
