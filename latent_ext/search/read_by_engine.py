"""A LatentRM that reads answers, with its passes on the engine that formed the trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from latent_ext.engine.base import Engine
from latent_ext.engine.native import NativeEngine
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import why_not_packable
from latent_ext.rewards.answers import score_answers
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.reward import Need, Reward, Scored, Seen


@dataclass(frozen=True)
class ReadByEngine:
    """The same scores as the LatentRM's own, in the engine's arithmetic; see `Reward`."""

    reward: LatentRM
    engine: NativeEngine

    @property
    def name(self) -> str:
        return self.reward.name

    @property
    def by_trajectory(self) -> bool:
        return self.reward.by_trajectory

    @property
    def needs(self) -> frozenset[Need]:
        return self.reward.needs

    def concerns(self, sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
        return self.reward.concerns(sampler, generator_hash)

    def score(self, model: LatentModel, seen: Seen) -> Sequence[Scored]:
        return score_answers(self.reward, model, seen, partial(self.engine.read_behind, self.reward))


def on_engine(reward: Reward, engine: Engine) -> Reward:
    """The reward, read by the engine where that can and it reads answers."""
    if (
        not isinstance(reward, LatentRM)
        or reward.answer_format is None
        or not isinstance(engine, NativeEngine)
    ):
        return reward
    return ReadByEngine(reward, engine) if why_not_packable(reward.module.body) is None else reward
