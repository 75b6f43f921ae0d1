"""A next thought that Python code forms: what a family of one's own writes, and what soft tokens are built on.

A :class:`~latent_ext.models.family.ThoughtHead` names tensors, so every engine can run it. A thought rule is a
function instead: engines "modules" and "reference" call it once per latent step, with the random numbers of that
step at hand. It may end the latent phase of single rows, and remember something from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from latent_ext.ops import philox, sites

# What an element number leaves for features or vocabulary ids; the bits above count draws.
DRAW_SHIFT = 20


@dataclass(frozen=True)
class Draw:
    """The random numbers of one position of every row: functions of seed, key and position, never a stream.

    Attributes:
        seed: int64 [1], run seed.
        keys: int64 [rows], trajectory keys.
        positions: int64 [rows], the position that the numbers belong to.
        parts: what the sampler asks for, by the name of its text form, for example
            ``{"gumbel": GumbelNoise(1.0)}``; parts that do nothing are absent.
        end: id of the token that closes the latent phase; -1 where the family has none.
    """

    seed: Tensor
    keys: Tensor
    positions: Tensor
    parts: Mapping[str, Any] = field(default_factory=dict)
    end: int = -1

    def select(self, rows: Tensor) -> Draw:
        """The draws of some of the rows."""
        return replace(self, keys=self.keys[rows], positions=self.positions[rows])

    def normals(self, elements: int | Tensor, site: int = sites.NOISE) -> Tensor:
        """Standard normal values, float32 [rows, n]; `elements` as in `ops.philox.random_words`."""
        return philox.normals(self.seed, self.keys, self.positions, site, elements)

    def gumbels(self, elements: int | Tensor) -> Tensor:
        """Standard Gumbel values at site TOKEN, float32 [rows, n]; an element is a vocabulary id."""
        return philox.gumbels(self.seed, self.keys, self.positions, sites.TOKEN, elements)

    def uniforms(self, elements: int | Tensor, site: int = sites.NOISE) -> Tensor:
        """Uniform values inside (0, 1), float64 [rows, n]."""
        words = philox.random_words(self.seed, self.keys, self.positions, site, elements)
        return (words.to(torch.float64) + 0.5) * 2.0**-32


@dataclass(frozen=True)
class NextThought:
    """What a rule gives back.

    Attributes:
        thought: (rows, hidden), dtype of the hidden state: fed as the next input embedding.
        ended: bool (rows,): rows whose latent phase is over; their `thought` is dropped and the end token follows.
            None: no row ends, so the phase has ``Family.latent_length`` thoughts.
        memory: (rows, ...), handed back at the next step; None for nothing.
    """

    thought: Tensor
    ended: Tensor | None = None
    memory: Tensor | None = None


@runtime_checkable
class ThoughtRule(Protocol):
    """How a next thought is formed, in Python.

    Attributes:
        randomness: names of the sampler parts that act in this family, for example ``("dropout", "noise")``:
            engines apply "dropout" inside the body and "noise" to the formed thought; the rule applies others itself,
            from ``draw.parts``. A sampler with another part is refused.
    """

    @property
    def randomness(self) -> tuple[str, ...]: ...

    def next_thought(self, hidden: Tensor, memory: Tensor | None, draw: Draw) -> NextThought:
        """Forms the next thought of every row; rows are independent and may be any subset of a run's.

        Args:
            hidden: (rows, hidden), final-norm hidden state of the last position read.
            memory: what the previous step returned for these rows; None at the first step.
            draw: random numbers; its positions are those at which the thoughts will be read.
        """
