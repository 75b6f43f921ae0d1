"""Randomness in the passes of the current rows: what a pass draws is decided here, once, for every engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latent_ext.engine.value_noise import ValueNoise
from latent_ext.ops import sites
from latent_ext.samplers import Sampler


@dataclass(frozen=True)
class RowDropout:
    """MC-dropout and noise on W_V, bound to rows.

    Attributes:
        p: drop probability; 0 for a clean pass.
        seed: int64 [1].
        keys: int64 [rows] trajectory keys.
        per_trajectory: one mask for all positions of a trajectory.
        embedding: whether the input vector is dropped as well.
        values: noise on W_V; None for none.
    """

    p: float
    seed: Tensor
    keys: Tensor
    per_trajectory: bool = False
    embedding: bool = False
    values: ValueNoise | None = None

    @classmethod
    def of(cls, sampler: Sampler, seed: Tensor, keys: Tensor) -> RowDropout:
        """The randomness of a stochastic pass under `sampler`."""
        return replace(cls.of_answer(sampler, seed, keys), values=ValueNoise.of(sampler, seed, keys))

    @classmethod
    def of_answer(cls, sampler: Sampler, seed: Tensor, keys: Tensor) -> RowDropout:
        """The same of a stochastic pass over the answer, for families that have such: no noise on W_V."""
        if sampler.dropout is None:
            return cls.clean(seed, keys)
        return cls(
            p=sampler.dropout.p,
            seed=seed,
            keys=keys,
            per_trajectory=sampler.dropout.per == "trajectory",
            embedding=sampler.dropout.sites == "residual+embedding",
        )

    @classmethod
    def clean(cls, seed: Tensor, keys: Tensor) -> RowDropout:
        """No randomness: what prompts (scope "latent"), the last thought and answers are read with."""
        return cls(p=0.0, seed=seed, keys=keys)

    @classmethod
    def clean_of(cls, sampler: Sampler, seed: Tensor, keys: Tensor) -> RowDropout:
        """No randomness, whatever `sampler` says."""
        return cls.clean(seed, keys)

    def mask_positions(self, positions: Tensor) -> Tensor:
        """The position counter of each mask, int64, of the shape of `positions`."""
        return torch.full_like(positions, sites.FIXED) if self.per_trajectory else positions
