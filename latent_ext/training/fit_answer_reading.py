"""Fits the two weights of an `AnswerReading` to labelled questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from latent_ext.rewards.answer_reading import AnswerReading, is_noise_free
from latent_ext.training.labelled import LabelledQuestion
from latent_ext.training.losses import contrastive

_ITERATIONS = 100


def fit_answer_reading(
    questions: Sequence[LabelledQuestion], trained_on: dict[str, Any] | None = None
) -> AnswerReading:
    """Weights that minimise the normalised contrastive loss against each trajectory's own outcome.

    Args:
        questions: with equal N; those on which all trajectories agree say nothing and may be among them.
        trained_on: recorded with the result.

    Raises:
        ValueError: if no question has right and wrong trajectories.
    """
    used = [
        question
        for question in questions
        if bool(question.correct.any()) and not bool(question.correct.all())
    ]
    if not used:
        raise ValueError(f"questions: none of the {len(questions)} has right and wrong trajectories")
    known = [[answer is not None for answer in question.answers] for question in used]
    logprobs = torch.stack([question.logprobs for question in used]).double()
    usable = torch.tensor(known) & torch.stack([question.usable for question in used]) & logprobs.isfinite()
    agrees = [
        [is_noise_free(answer, question.reference_answer) for answer in question.answers] for question in used
    ]
    features = torch.stack([torch.tensor(agrees).double(), logprobs.masked_fill(~usable, 0.0)], dim=2)
    outcome = torch.stack([question.correct for question in used]).double().unsqueeze(2)
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = contrastive((features @ weights).unsqueeze(2), outcome, usable)
        value.backward()
        return value

    optimizer.step(loss)
    agreement, confidence = weights.tolist()
    return AnswerReading(agreement, confidence, trained_on or {})
