"""Scores that are known when all answers are: of rewards on answers, and of those that no engine computes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from torch import Tensor

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.reward import Reward, Scored, Seen, kind_of
from latent_ext.search.result import Trajectory


class LaterScores:
    """Gives scores to decoded trajectories, question by question and each of them once.

    Args:
        model: the generator.
        reward: asked for the trajectories that a question has more than before.
        prompts: int64 [length] ids, one per question.
        noise_free: of each question one trajectory without randomness, where the reward needs it.
        keep_thoughts: whether the trajectories keep their thoughts.
    """

    def __init__(
        self,
        model: LatentModel,
        reward: Reward,
        prompts: Sequence[Tensor],
        noise_free: Sequence[Trajectory] | None,
        *,
        keep_thoughts: bool,
    ) -> None:
        self.model, self.reward, self.prompts = model, reward, prompts
        self.noise_free, self.keep_thoughts = noise_free, keep_thoughts
        self._scored: dict[int, int] = {}

    def __call__(self, question: int, trajectories: Sequence[Trajectory]) -> None:
        """Scores those of a question's trajectories that were not there before; they are scored together.

        Args:
            question: its number.
            trajectories: all that it has so far, with answers, and thoughts where the reward needs them. Those with an
                error are left out; a score that is not finite becomes one, with a warning.

        Raises:
            ValueError: if the reward gives more or fewer scores than there are trajectories.
        """
        fresh = trajectories[self._scored.get(question, 0) :]
        self._scored[question] = len(trajectories)
        usable = [trajectory for trajectory in fresh if trajectory.error is None]
        reference = None if self.noise_free is None else self.noise_free[question]
        thoughts = None
        if "thoughts" in self.reward.needs:
            thoughts = [trajectory.thoughts for trajectory in usable if trajectory.thoughts is not None]
        seen = Seen(
            self.prompts[question],
            thoughts,
            [trajectory.tokens or [] for trajectory in usable],
            [trajectory.answer for trajectory in usable],
            [trajectory.logprob for trajectory in usable],
            None if reference is None else reference.answer,
            [] if reference is None else reference.tokens or [],
        )
        scores = self.reward.score(self.model, seen) if usable else []
        if len(scores) != len(usable):
            raise ValueError(
                f"reward: {kind_of(self.reward)} gave {len(scores)} scores for {len(usable)} trajectories of question "
                f"{question}"
            )
        for trajectory, scored in zip(usable, scores, strict=True):
            _set(trajectory, scored)
            if trajectory.error is not None:
                place = f"question {question}, trajectory {trajectory.index}"
                message = f"{place}: {trajectory.error}; it is not selected"
                warnings.warn(message, RuntimeWarning, stacklevel=3)
        if not self.keep_thoughts:
            for trajectory in fresh:
                trajectory.thoughts = None


def _set(trajectory: Trajectory, scored: Scored) -> None:
    if scored is None:
        return
    if isinstance(scored, Sequence):
        trajectory.set_scores([float(score) for score in scored])
    elif math.isfinite(scored):
        trajectory.score = float(scored)
    else:
        trajectory.error = "the score is not finite"
