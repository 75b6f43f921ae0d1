"""How well scores rank the trajectories of one question: AUC, best-of-N and weighted vote on validation
problems."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from batches import Encoder
from sampling import LatentSampler
from scorer import Scorer
from torch import Tensor

from latent_ext.evaluation.arithmetic import generate

TRAJECTORIES = 64
SIZES = (4, 16, 64)
_LONGEST_ANSWER = 6
_CHUNK = 20


@dataclass(frozen=True)
class HeldOut:
    """Sampled trajectories of validation problems, by number of steps.

    Per number of steps: prompts, thoughts [questions, 64, steps, hidden], answers as tuples of token ids, and
    whether each is right, bool [questions, 64].
    """

    prompts: dict[int, list[bytes]]
    thoughts: dict[int, Tensor]
    answers: dict[int, list[list[tuple[int, ...]]]]
    right: dict[int, Tensor]


@torch.no_grad()
def prepare(sampler: LatentSampler, encoder: Encoder, count: int, steps: Sequence[int] = (5, 6)) -> HeldOut:
    """Samples 64 trajectories for `count` validation problems of each number of steps."""
    held = HeldOut({}, {}, {}, {})
    for n_steps in steps:
        problems = generate(count, split="valid", steps=(n_steps, n_steps), seed=7)
        encoded = [encoder.problem(p) for p in problems]
        thoughts, answers, right = [], [], []
        for begin in range(0, count, _CHUNK):
            part = encoded[begin : begin + _CHUNK]
            questions = sampler.read([e.prompt for e in part])
            state, sampled = sampler.sample(questions, TRAJECTORIES)
            tokens = sampler.decode(questions, state, sampled[:, :, -1], encoder.stop, _LONGEST_ANSWER)
            thoughts.append(sampled)
            for example, rows in zip(part, tokens.tolist(), strict=True):
                wanted = tuple(example.answer) + (encoder.stop,) * (_LONGEST_ANSWER - len(example.answer))
                answers.append([tuple(row) for row in rows])
                right.append([tuple(row) == wanted for row in rows])
        held.prompts[n_steps] = [e.prompt for e in encoded]
        held.thoughts[n_steps] = torch.cat(thoughts)
        held.answers[n_steps] = answers
        held.right[n_steps] = torch.tensor(right)
    return held


@torch.no_grad()
def scores_of(scorer: Scorer, prompts: list[bytes], thoughts: Tensor) -> Tensor:
    """Trajectory scores [questions, rows]."""
    parts = [
        scorer.step_scores(prompts[begin : begin + _CHUNK], thoughts[begin : begin + _CHUNK]).sum(2)
        for begin in range(0, len(prompts), _CHUNK)
    ]
    return torch.cat(parts)


def judge(scorer: Scorer, held: HeldOut) -> dict[str, dict[str, float]]:
    """Per number of steps, `ranking` of the scorer's scores."""
    return {
        f"{n_steps} steps": ranking(
            scores_of(scorer, held.prompts[n_steps], thoughts), held.answers[n_steps], held.right[n_steps]
        )
        for n_steps, thoughts in held.thoughts.items()
    }


def ranking(scores: Tensor, answers: list[list[tuple[int, ...]]], right: Tensor) -> dict[str, float]:
    """Percent of questions answered right by each rule, and the AUC within questions.

    Best-of-k and both votes take the first k trajectories. "random" is pass@1 of all.

    Args:
        scores: [questions, rows].
        answers: [questions][rows].
        right: bool [questions, rows].
    """
    figures = {"random": 100 * float(right.float().mean()), "auc": 100 * within_question_auc(scores, right)}
    for k in SIZES:
        best = scores[:, :k].argmax(1)
        figures[f"best@{k}"] = 100 * float(right[torch.arange(len(right)), best].float().mean())
        majority, weighted = [], []
        for mine, marks, score in zip(answers, right.tolist(), scores.tolist(), strict=True):
            majority.append(_voted(mine[:k], marks, [1.0] * k))
            top = max(score[:k])
            weighted.append(_voted(mine[:k], marks, [math.exp(s - top) for s in score[:k]]))
        figures[f"majority@{k}"] = 100 * statistics.fmean(majority)
        figures[f"weighted@{k}"] = 100 * statistics.fmean(weighted)
    return {name: round(value, 1) for name, value in figures.items()}


def within_question_auc(scores: Tensor, right: Tensor) -> float:
    """Probability that a right trajectory outscores a wrong one of the same question, averaged over the
    questions that have both; ties count half, 0.5 where no question has both."""
    areas = []
    for score, mark in zip(scores, right, strict=True):
        good, bad = score[mark], score[~mark]
        if len(good) and len(bad):
            gap = good[:, None] - bad[None, :]
            areas.append(float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean()))
    return statistics.fmean(areas) if areas else 0.5


def _voted(answers: Sequence[tuple[int, ...]], right: Sequence[bool], weights: Sequence[float]) -> bool:
    votes: Counter[tuple[int, ...]] = Counter()
    for answer, weight in zip(answers, weights, strict=True):
        votes[answer] += weight
    return right[answers.index(votes.most_common(1)[0][0])]
