"""Scores at LatentTTS's own positions: known when all answers are, since pads are counted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.published_positions import score_as_published
from latent_ext.search.result import Trajectory


def set_published_scores(
    reward: LatentRM,
    prompts: Sequence[Tensor],
    trajectories: Sequence[Sequence[Trajectory]],
    *,
    keep_thoughts: bool,
) -> None:
    """Gives scores to decoded trajectories that still hold their thoughts; a question's trajectories are one batch.

    Args:
        reward: with ``positions="published"``.
        prompts: int64 [length] ids, one per question.
        trajectories: of each question; those with an error are left out of the batch. A score that is not finite
            becomes an error, with a warning.
        keep_thoughts: whether they keep their thoughts.

    Raises:
        ValueError: if a padded batch has more positions than the LatentRM.
    """
    for question, (prompt, listed) in enumerate(zip(prompts, trajectories, strict=True)):
        usable = [trajectory for trajectory in listed if trajectory.error is None]
        thoughts = [trajectory.thoughts for trajectory in usable if trajectory.thoughts is not None]
        answers = [trajectory.tokens or [] for trajectory in usable]
        for trajectory, own in zip(
            usable, score_as_published(reward, prompt, thoughts, answers), strict=True
        ):
            trajectory.set_scores(own.tolist())
            if trajectory.error is not None:
                place = f"question {question}, trajectory {trajectory.index}"
                message = f"{place}: {trajectory.error}; it is not selected"
                warnings.warn(message, RuntimeWarning, stacklevel=3)
        for trajectory in listed:
            trajectory.thoughts = trajectory.thoughts if keep_thoughts else None
