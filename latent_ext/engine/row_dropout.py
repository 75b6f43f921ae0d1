"""Dropout of the current rows: which masks a pass draws is decided here, once, for every engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.ops import sites
from latent_ext.samplers import Sampler


@dataclass(frozen=True)
class RowDropout:
    """MC-dropout bound to rows.

    Attributes:
        p: drop probability; 0 for a clean pass.
        seed: int64 [1].
        keys: int64 [rows] trajectory keys.
        per_trajectory: one mask for all positions of a trajectory.
        embedding: whether the input vector is dropped as well.
    """

    p: float
    seed: Tensor
    keys: Tensor
    per_trajectory: bool = False
    embedding: bool = False

    @classmethod
    def of(cls, sampler: Sampler, seed: Tensor, keys: Tensor) -> RowDropout:
        """The dropout of a stochastic pass under `sampler`."""
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
        """No dropout: what prompts (scope "latent"), the last thought and answers are read with."""
        return cls(p=0.0, seed=seed, keys=keys)

    @classmethod
    def clean_of(cls, sampler: Sampler, seed: Tensor, keys: Tensor) -> RowDropout:
        """No dropout, whatever `sampler` says."""
        return cls.clean(seed, keys)

    def mask_positions(self, positions: Tensor) -> Tensor:
        """The position counter of each mask, int64, of the shape of `positions`."""
        return torch.full_like(positions, sites.FIXED) if self.per_trajectory else positions
