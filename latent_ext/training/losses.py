"""Losses of a LatentRM: what its step scores are held against.

All take step scores (logits) and the share of roll-outs that came out right, float32 [questions, N, T], and
`usable`, bool [questions, N]: trajectories that count. Of a score of the whole trajectory T is 1. Each returns a
scalar, a mean, so that a learning rate means the same at every batch size.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Form = Literal["normalised", "published"]
FORMS: tuple[str, ...] = get_args(Form)


def contrastive(scores: Tensor, values: Tensor, usable: Tensor, form: Form = "normalised") -> Tensor:
    """Step-wise contrastive cross-entropy: at every step a softmax over the trajectories of a question.

    "normalised": the target is values / sum of values, and its entropy is taken off, so that 0 is the best there is
    and every step that has a right roll-out weighs the same. "published" (LatentTTS, section 3.2, and its code):
    the values are the weights as they are, so that questions with more right roll-outs weigh more. The published code
    also divides by the padded length of the batch; here it is by questions and steps alone.

    Raises:
        ValueError: for another form.
    """
    if form not in FORMS:
        raise ValueError(f"form: got {form!r}; allowed are {', '.join(FORMS)}")
    hidden = ~usable.unsqueeze(2)
    log_probability = scores.masked_fill(hidden, float("-inf")).log_softmax(dim=1).masked_fill(hidden, 0.0)
    values = values.masked_fill(hidden, 0.0)
    if form == "published":
        return -(values * log_probability).sum(dim=1).mean()
    total = values.sum(dim=1, keepdim=True)
    target = values / total.clamp_min(1e-9)
    divergence = (torch.xlogy(target, target) - target * log_probability).sum(dim=1)  # [questions, T]
    informative = total[:, 0] > 0
    return (divergence * informative).sum() / informative.sum().clamp_min(1)


def binary(scores: Tensor, values: Tensor, usable: Tensor) -> Tensor:
    """Binary cross-entropy of every step against its value, each trajectory on its own."""
    each = functional.binary_cross_entropy_with_logits(scores, values, reduction="none")
    return each[usable].mean() if bool(usable.any()) else scores.sum() * 0.0


def beta_binomial(
    scores: Tensor,
    concentration: Tensor,
    counts: Tensor,
    rollouts: int,
    usable: Tensor,
    calibration: float = 0.05,
) -> Tensor:
    """Negative log likelihood of the counts under a Beta-Binomial (BetaPRM, arXiv 2605.15529).

    The mean of a thought's Beta is sigmoid(score), its concentration comes from a head of its own. A second term
    lowers concentrations where the mean is far from the share: ``calibration * mean(|mean - K/M| * concentration)``,
    without a gradient to the mean.

    Args:
        concentration: float32 [questions, N, T], what `concentration_of` gives: positive.
        counts: [questions, N, T], K of `rollouts`.
        rollouts: M >= 1.
        calibration: weight of the second term.
    """
    mean = scores.sigmoid().clamp(1e-6, 1 - 1e-6)
    alpha, beta = mean * concentration, (1 - mean) * concentration
    right, wrong = counts.to(scores.dtype), rollouts - counts.to(scores.dtype)
    trials = torch.tensor(float(rollouts), dtype=scores.dtype, device=scores.device)
    choose = torch.lgamma(trials + 1) - torch.lgamma(right + 1) - torch.lgamma(wrong + 1)
    likelihood = choose + _log_beta(right + alpha, wrong + beta) - _log_beta(alpha, beta)
    penalty = (mean.detach() - right / rollouts).abs() * concentration
    each = calibration * penalty - likelihood
    return each[usable].mean() if bool(usable.any()) else scores.sum() * 0.0


def order_preference(clean: Tensor, corrupted: Tensor, usable: Tensor, margin: float = 0.05) -> Tensor:
    """Hinge loss on a hierarchy of corruptions of the order of thoughts: each level scores below the one before.

    A trajectory as it was sampled stands above one with two neighbouring thoughts exchanged, that above one with two
    stretches exchanged, that above more stretches, and all above the reversed order (the "order preference" of a
    public reproduction of LatentTTS). Used beside another loss.

    Args:
        clean: float32 [questions, N], trajectory scores.
        corrupted: float32 [levels, questions, N], of the corruptions, mildest first.
        margin: by which a level must lie below the one before.
    """
    levels = torch.cat([clean.unsqueeze(0), corrupted])
    hinge = (margin - (levels[:-1] - levels[1:])).clamp_min(0.0)
    return hinge[:, usable].mean() if bool(usable.any()) else clean.sum() * 0.0


def gold_answer(likelihood: Tensor, usable: Tensor) -> Tensor:
    """Mean of minus the log probability of the gold answer behind trajectories' thoughts, float32 [questions, N].

    Right and wrong trajectories count alike: a reader learns to say what is right whatever it was told (generative
    verifiers, arXiv 2408.15240, learn a verdict; here the answer itself). Used beside another loss.
    """
    return -likelihood[usable].mean() if bool(usable.any()) else likelihood.sum() * 0.0


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
