"""Scores that are known when all answers are: of rewards on answers, and of those that no engine computes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

from torch import Tensor

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.reward import Reward, Scored, Seen, kind_of
from latent_ext.search.result import Trajectory


def set_later_scores(
    model: LatentModel,
    reward: Reward,
    prompts: Sequence[Tensor],
    trajectories: Sequence[Sequence[Trajectory]],
    noise_free: Sequence[Trajectory] | None,
    *,
    keep_thoughts: bool,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Gives scores to decoded trajectories; a question's are scored together.

    Args:
        reward: asked once per question.
        prompts: int64 [length] ids, one per question.
        trajectories: of each question, with answers, and thoughts where the reward needs them; those with an error
            are left out. A score that is not finite becomes an error, with a warning.
        noise_free: of each question one trajectory without randomness, where the reward needs it.
        keep_thoughts: whether the trajectories keep their thoughts.
        progress: called with (questions scored, questions in all).

    Raises:
        ValueError: if the reward gives more or fewer scores than there are trajectories.
    """
    for question, (prompt, listed) in enumerate(zip(prompts, trajectories, strict=True)):
        usable = [trajectory for trajectory in listed if trajectory.error is None]
        reference = None if noise_free is None else noise_free[question]
        thoughts = None
        if "thoughts" in reward.needs:
            thoughts = [trajectory.thoughts for trajectory in usable if trajectory.thoughts is not None]
        seen = Seen(
            prompt,
            thoughts,
            [trajectory.tokens or [] for trajectory in usable],
            [trajectory.answer for trajectory in usable],
            [trajectory.logprob for trajectory in usable],
            None if reference is None else reference.answer,
            [] if reference is None else reference.tokens or [],
        )
        scores = reward.score(model, seen) if usable else []
        if len(scores) != len(usable):
            raise ValueError(
                f"reward: {kind_of(reward)} gave {len(scores)} scores for {len(usable)} trajectories of question {question}"
            )
        for trajectory, scored in zip(usable, scores, strict=True):
            _set(trajectory, scored)
            if trajectory.error is not None:
                place = f"question {question}, trajectory {trajectory.index}"
                message = f"{place}: {trajectory.error}; it is not selected"
                warnings.warn(message, RuntimeWarning, stacklevel=3)
        for trajectory in listed:
            trajectory.thoughts = trajectory.thoughts if keep_thoughts else None
        if progress is not None:
            progress(question + 1, len(prompts))


def _set(trajectory: Trajectory, scored: Scored) -> None:
    if scored is None:
        return
    if isinstance(scored, Sequence):
        trajectory.set_scores([float(score) for score in scored])
    elif math.isfinite(scored):
        trajectory.score = float(scored)
    else:
        trajectory.error = "the score is not finite"
