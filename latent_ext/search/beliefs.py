"""What a LatentRM that knows how sure it is says of a question's trajectories; each is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.reliability import step_beliefs, value_bounds
from latent_ext.search.result import Trajectory


@dataclass(frozen=True)
class Belief:
    """Of one trajectory.

    Attributes:
        bounds: lower and upper one of its value.
        means, deviations: of the Beta of each of its thoughts.
    """

    bounds: tuple[float, float]
    means: list[float]
    deviations: list[float]


class RewardBeliefs:
    """(question of the run, its trajectories) -> the belief of each; None for one that cannot be selected.

    Args:
        reward: that `latent_ext.rewards.reliability.is_reliable`.
        prompts: int64 [length] ids of the run's questions.
        keep_thoughts: leave trajectories their thoughts once they are read.
    """

    def __init__(self, reward: LatentRM, prompts: Sequence[Tensor], *, keep_thoughts: bool) -> None:
        self.reward, self.prompts, self.keep_thoughts = reward, prompts, keep_thoughts
        self._known: dict[int, list[Belief | None]] = {}

    def __call__(self, question: int, drawn: Sequence[Trajectory]) -> list[Belief | None]:
        known = self._known.setdefault(question, [])
        fresh = drawn[len(known) :]
        # Rows that end their thoughts by themselves differ in length; those of one length are read together.
        by_length: dict[int, list[tuple[int, Tensor]]] = {}
        for place, one in enumerate(fresh):
            if one.error is None and one.thoughts is not None and len(one.thoughts):
                by_length.setdefault(len(one.thoughts), []).append((place, one.thoughts))
        found: dict[int, Belief] = {}
        for listed in by_length.values():
            places, thoughts = zip(*listed, strict=True)
            means, deviations = step_beliefs(self.reward, self.prompts[question], torch.stack(thoughts))
            bounds = torch.stack(value_bounds(means, deviations), dim=1)
            for place, (low, high), mean, deviation in zip(
                places, bounds.tolist(), means.tolist(), deviations.tolist(), strict=True
            ):
                found[place] = Belief((low, high), mean, deviation)
        for place, one in enumerate(fresh):
            known.append(found.get(place))
            if not self.keep_thoughts:
                one.thoughts = None
        return known
