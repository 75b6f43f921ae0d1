"""How well a LatentRM selects, on labelled questions that were kept from training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from latent_ext.evaluation.metrics import within_question_auc
from latent_ext.search.select import Selection, best_of_n, majority_vote, weighted_vote
from latent_ext.training.labelled import LabelledQuestion

SIZES = (4, 8, 16, 32, 64)
_BINS = 10


def measure(
    questions: Sequence[LabelledQuestion], scores: Tensor, probability: Tensor | None = None
) -> dict[str, float]:
    """Figures of a validation pool.

    Args:
        questions: with equal N and T.
        scores: float32 [questions, N], trajectory scores.
        probability: float32 [questions, N], what the LatentRM takes for the chance that a trajectory is right, if it says.

    Returns:
        auc: mean over the questions with right and wrong trajectories of the chance that a right one scores higher;
        pass@1; for N = 4, 8, 16, ... up to that of the pool, over its disjoint groups: best_of_N, weighted_vote_N,
        majority_N, and recall@K_of_N for K = 2 and 4: whether one of the K best scored is right, where any is;
        calibration_error: mean distance of `probability` and the share that is right, over ten bins.
        Figures that no question defines are left out.
    """
    count = scores.shape[1]
    kept = scores.masked_fill(~torch.stack([q.usable for q in questions]), float("-inf")).tolist()
    right = [q.correct.tolist() for q in questions]
    areas = [within_question_auc(_known(s), flags) for s, flags in zip(kept, right, strict=True)]
    defined = [area for area in areas if area is not None]
    figures = {"pass@1": float(np.mean(right))}
    if defined:
        figures["auc"] = float(np.mean(defined))
    for size in sorted({*(n for n in SIZES if n <= count), count}):
        rules: dict[str, Callable[..., Selection]] = {
            "best_of": best_of_n,
            "weighted_vote": weighted_vote,
            "majority": majority_vote,
        }
        for name, rule in rules.items():
            figures[f"{name}_{size}"] = float(
                np.mean([_chosen(rule, q, s, size) for q, s in zip(questions, kept, strict=True)])
            )
        for k in (2, 4):
            recalled = [r for s, f in zip(kept, right, strict=True) for r in _recall(s, f, k, size)]
            if k < size and recalled:
                figures[f"recall@{k}_of_{size}"] = float(np.mean(recalled))
    if probability is not None:
        correct = torch.stack([q.correct for q in questions])
        figures["calibration_error"] = _calibration_error(probability, correct)
    return figures


def _known(scores: Sequence[float]) -> list[float | None]:
    return [score if math.isfinite(score) else None for score in scores]


def _chosen(
    rule: Callable[..., Selection], question: LabelledQuestion, scores: Sequence[float], size: int
) -> float:
    hits = []
    for start in range(0, len(scores) - size + 1, size):
        group = slice(start, start + size)
        chosen = rule(question.answers[group], _known(scores[group])).chosen
        hits.append(chosen is not None and bool(question.correct[start + chosen]))
    return float(np.mean(hits))


def _recall(scores: Sequence[float], right: Sequence[bool], k: int, size: int) -> list[bool]:
    found = []
    for start in range(0, len(scores) - size + 1, size):
        group = range(start, start + size)
        if any(right[n] for n in group):
            best = sorted(group, key=lambda n: -scores[n])[:k]
            found.append(any(right[n] for n in best))
    return found


def _calibration_error(probability: Tensor, right: Tensor) -> float:
    flat, hits = probability.reshape(-1), right.reshape(-1).float()
    place = (flat * _BINS).long().clamp(0, _BINS - 1)
    error = 0.0
    for b in range(_BINS):
        inside = place == b
        if bool(inside.any()):
            error += float(inside.float().mean() * (flat[inside].mean() - hits[inside].mean()).abs())
    return error
