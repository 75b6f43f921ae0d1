"""Labelled questions, and batches of them that a LatentRM reads in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.rewards.answer_reading import is_noise_free
from latent_ext.rewards.answers import padded
from latent_ext.rewards.branches import branches, trajectory_layout


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
        positions, mask: of prompts and trajectories, see `latent_ext.rewards.branches`: a thought sees the prompt and the
            thoughts of its own trajectory before it, an answer the thoughts, too, a gold answer the thoughts and not the
            answer.
        counts: int64 [questions, N, T].
        correct, usable: bool [questions, N].
        rollouts: M.
        answers: int64 [questions, N, A], what stands behind each trajectory's thoughts, padded on the right; A is 0 where
            thoughts alone are read.
        answer_lengths: int64 [questions, N].
        golds: int64 [questions, G], the gold answers laid out likewise; 0 wide where none is learned.
        gold_lengths: int64 [questions].
        answered: bool [questions, N]: whether there is an answer to be ranked; True where thoughts alone are read.
        given: tokens before what differs between answers, see `latent_ext.rewards.answers.given_tokens`.
        known: float32 [questions, N, 2]: whether the answer is the noise-free one, and the log probability of what the
            generator wrote.
    """

    ids: Tensor
    thoughts: Tensor
    positions: Tensor
    mask: Tensor
    counts: Tensor
    correct: Tensor
    usable: Tensor
    rollouts: int
    answers: Tensor
    answer_lengths: Tensor
    golds: Tensor
    gold_lengths: Tensor
    known: Tensor
    answered: Tensor
    given: int = 1

    @property
    def values(self) -> Tensor:
        """float32 [questions, N, T]: the share of roll-outs that came out right."""
        return self.counts.float() / self.rollouts


# The ids of an answer as a LatentRM reads it; None for a trajectory without one.
AnswerIds = Callable[["str | None"], "list[int]"]


def collate(
    questions: Sequence[LabelledQuestion],
    prompts: Sequence[Tensor],
    answer_ids: AnswerIds | None = None,
    *,
    with_gold: bool = False,
    max_positions: int | None = None,
) -> Batch:
    """Lays questions out.

    Args:
        questions: at least one.
        prompts: int64 [length] each, what the LatentRM reads before the thoughts.
        answer_ids: of a LatentRM that reads answers; default: thoughts alone.
        with_gold: with answers, the gold ones, too.
        max_positions: of the LatentRM. A trajectory that needs more with its answer is not usable; default: any number.

    Raises:
        ValueError: if N, T or M differ between the questions.
    """
    shapes = {(*q.counts.shape, q.rollouts) for q in questions}
    if len(shapes) != 1:
        raise ValueError(f"questions: got (N, T, M) of {sorted(shapes)}; they must agree in one batch")
    count, steps, rollouts = shapes.pop()
    ids, lengths = padded(prompts)
    read = [answer_ids(answer) if answer_ids else [] for q in questions for answer in q.answers]
    gold = [answer_ids(q.gold) if answer_ids and with_gold else [] for q in questions]
    answers, answer_lengths = padded([torch.tensor(tokens, dtype=torch.int64) for tokens in read])
    golds, gold_lengths = padded([torch.tensor(tokens, dtype=torch.int64) for tokens in gold])
    layout = trajectory_layout(steps, (answers.shape[1], golds.shape[1]))
    positions, mask = branches(lengths, count, layout)
    usable = torch.stack([q.usable for q in questions])
    if max_positions is not None:
        needed = torch.maximum(
            answer_lengths.unflatten(0, (len(questions), count)), gold_lengths.unsqueeze(1)
        )
        usable = usable & (lengths.unsqueeze(1) + steps + needed <= max_positions)
        # Pads stand behind all that is read, and nobody looks at them.
        positions = positions.clamp(max=max_positions - 1)
    thoughts = torch.stack([q.thoughts.float() for q in questions])
    # What is not finite would reach its neighbours through 0 * NaN in the attention.
    thoughts = thoughts.masked_fill(~usable[:, :, None, None], 0.0)
    agrees = torch.tensor([[is_noise_free(a, q.reference_answer) for a in q.answers] for q in questions])
    confidence = torch.stack([q.logprobs.float() for q in questions])
    answered = torch.ones_like(usable)
    if answer_ids is not None:
        there = torch.tensor([[answer is not None for answer in q.answers] for q in questions])
        answered = there & confidence.isfinite()
    return Batch(
        ids=ids,
        thoughts=thoughts.flatten(1, 2),
        positions=positions,
        mask=mask,
        counts=torch.stack([q.counts for q in questions]),
        correct=torch.stack([q.correct for q in questions]),
        usable=usable,
        rollouts=rollouts,
        answers=answers.unflatten(0, (len(questions), count)),
        answer_lengths=answer_lengths.unflatten(0, (len(questions), count)),
        golds=golds,
        gold_lengths=gold_lengths,
        known=torch.stack([agrees.float(), confidence.nan_to_num(0.0, 0.0, 0.0)], dim=2),
        answered=answered,
    )
