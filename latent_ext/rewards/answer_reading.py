"""A reward on decoded answers: how sure the generator was of one, and whether it is the noise-free answer.

Two weights, fitted on labelled trajectories by `latent_ext.training.fit_answer_reading`. It sees what a score on
thoughts has to guess, so it needs every answer decoded, and one noise-free trajectory per question.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.reward import Need, Scored, Seen, trained_elsewhere


def is_noise_free(answer: str | None, noise_free_answer: str | None) -> bool:
    """Whether a trajectory answers what the generator answers without randomness."""
    return answer is not None and answer == noise_free_answer


@dataclass(frozen=True)
class AnswerReading:
    """Score = agreement * [the answer is the noise-free one] + confidence * log probability of the answer's tokens.

    Attributes:
        agreement: weight of the noise-free answer.
        confidence: weight of the log probability, natural logarithm.
        trained_on: sampler and generator hash of the trajectories it was fitted on.
    """

    agreement: float
    confidence: float
    trained_on: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Both weights, so that the settings of a result say them."""
        return f"answer_reading(agreement={self.agreement!r}, confidence={self.confidence!r})"

    @property
    def by_trajectory(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"answers", "noise_free"})

    def concerns(self, sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
        """How the trajectories differ from those it was fitted on; see `Reward`."""
        return trained_elsewhere("answer_reading", self.trained_on, sampler, generator_hash)

    def score(self, model: LatentModel, seen: Seen) -> Sequence[Scored]:
        """`scores` of what was seen."""
        return self.scores(seen.answers, seen.logprobs, seen.noise_free_answer)

    def scores(
        self,
        answers: Sequence[str | None],
        logprobs: Sequence[float | None],
        noise_free_answer: str | None,
    ) -> list[float | None]:
        """Scores of one question's trajectories, for `latent_ext.best_of_n` and `latent_ext.weighted_vote`.

        Args:
            answers: canonical answers by trajectory, `Result.answers`.
            logprobs: `Trajectory.logprob` by trajectory.
            noise_free_answer: the answer of ``solve(..., n=1, sampler="none")``.

        Returns:
            One score per trajectory; None where there is no answer or its log probability is not finite, so that it
            is never selected.

        >>> AnswerReading(0.5, 1.0).scores(["4", "5", None], [-1.0, -0.2, 0.0], "4")
        [-0.5, -0.2, None]
        """
        return [
            None
            if answer is None or logprob is None or not math.isfinite(logprob)
            else self.agreement * is_noise_free(answer, noise_free_answer) + self.confidence * logprob
            for answer, logprob in zip(answers, logprobs, strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Writes one JSON object."""
        Path(path).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> AnswerReading:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds anything else.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            reading = cls(float(found["agreement"]), float(found["confidence"]), dict(found["trained_on"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"path: {path} holds no answer reading: {error}") from None
        if not (math.isfinite(reading.agreement) and math.isfinite(reading.confidence)):
            raise ValueError(f"path: {path} holds weights that are not finite")
        return reading
