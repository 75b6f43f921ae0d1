"""A reward without training: the log probability of the decoded answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.reward import Need, Scored, Seen


@dataclass(frozen=True)
class AnswerLogprob:
    """Score = sum of the natural log probabilities of the answer's tokens; none without a canonical answer.

    The sum is not divided by the length, so a longer answer has to be the surer one in every token.
    """

    name: str = "answer_logprob"
    needs: frozenset[Need] = frozenset({"answers"})
    by_trajectory: bool = True

    def concerns(self, sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
        """None: the log probability means the same under every sampler."""
        return []

    def score(self, model: LatentModel, seen: Seen) -> Sequence[Scored]:
        return [
            None if answer is None or logprob is None or not math.isfinite(logprob) else logprob
            for answer, logprob in zip(seen.answers, seen.logprobs, strict=True)
        ]
