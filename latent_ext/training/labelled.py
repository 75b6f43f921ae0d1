"""Labelled questions, and batches of them that a LatentRM reads in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledQuestion:
    """What annotation knows of one question.

    Attributes:
        id: its name in the problem file.
        gold: canonical gold answer.
        prompt: int64 [length], prompt ids.
        reference: int64 [tokens], the noise-free answer's tokens, without end of sequence.
        reference_answer: canonical, or None.
        thoughts: [N, T, hidden], as they were fed.
        counts: int64 [N, T], how many of `rollouts` came out right from each thought.
        rollouts: M >= 1.
        correct: bool [N], whether the trajectory's own answer is the gold.
        answers: canonical answers by trajectory; None where there is none.
        usable: bool [N]; False where a thought is not finite.
        logprobs: float32 [N], sum of the log probabilities of each answer's tokens.
    """

    id: str
    gold: str
    prompt: Tensor
    reference: Tensor
    reference_answer: str | None
    thoughts: Tensor
    counts: Tensor
    rollouts: int
    correct: Tensor
    answers: list[str | None]
    usable: Tensor
    logprobs: Tensor

    @property
    def flag(self) -> str:
        """ "all_right", "all_wrong" or "mixed", over the usable trajectories and their roll-outs."""
        right, all_of = int(self.counts[self.usable].sum()), int(self.usable.sum()) * self.counts.shape[1]
        if right == all_of * self.rollouts:
            return "all_right"
        return "all_wrong" if right == 0 else "mixed"


@dataclass(frozen=True)
class Batch:
    """Questions with equal N, T and M, each laid out as prompt, then all its trajectories one after another.

    Attributes:
        ids: int64 [questions, longest], prompts padded on the right.
        thoughts: float32 [questions, N * T, hidden].
        positions: int64 [questions, longest + N * T].
        mask: float32 [questions, 1, longest + N * T, the same], 0 where a place may look and -inf elsewhere: a thought
            sees the prompt and the thoughts of its own trajectory before it.
        counts: int64 [questions, N, T].
        correct, usable: bool [questions, N].
        rollouts: M.
    """

    ids: Tensor
    thoughts: Tensor
    positions: Tensor
    mask: Tensor
    counts: Tensor
    correct: Tensor
    usable: Tensor
    rollouts: int

    @property
    def values(self) -> Tensor:
        """float32 [questions, N, T]: the share of roll-outs that came out right."""
        return self.counts.float() / self.rollouts


def collate(questions: Sequence[LabelledQuestion], prompts: Sequence[Tensor]) -> Batch:
    """Lays questions out.

    Args:
        questions: at least one.
        prompts: int64 [length] each, what the LatentRM reads before the thoughts.

    Raises:
        ValueError: if N, T or M differ between the questions.
    """
    shapes = {(*q.counts.shape, q.rollouts) for q in questions}
    if len(shapes) != 1:
        raise ValueError(f"questions: got (N, T, M) of {sorted(shapes)}; they must agree in one batch")
    count, steps, rollouts = shapes.pop()
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    ids = torch.zeros(len(questions), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    place = torch.arange(longest)
    behind = lengths.unsqueeze(1) + torch.arange(steps).repeat(count)
    positions = torch.cat([place.expand(len(questions), longest), behind], dim=1)
    own = torch.block_diag(*[torch.ones(steps, steps).tril()] * count).bool()
    sees = torch.zeros(len(questions), 1, positions.shape[1], positions.shape[1], dtype=torch.bool)
    sees[:, 0, :longest, :longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
    sees[:, 0, longest:, :longest] = (place < lengths.unsqueeze(1)).unsqueeze(1)
    sees[:, 0, longest:, longest:] = own
    usable = torch.stack([q.usable for q in questions])
    thoughts = torch.stack([q.thoughts.float() for q in questions])
    # What is not finite would reach its neighbours through 0 * NaN in the attention.
    thoughts = thoughts.masked_fill(~usable[:, :, None, None], 0.0)
    return Batch(
        ids=ids,
        thoughts=thoughts.flatten(1, 2),
        positions=positions,
        mask=torch.zeros(sees.shape).masked_fill_(~sees, float("-inf")),
        counts=torch.stack([q.counts for q in questions]),
        correct=torch.stack([q.correct for q in questions]),
        usable=usable,
        rollouts=rollouts,
    )
