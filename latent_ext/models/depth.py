"""Depth recurrence: a body that thinks inside one token, by running the same layers again and again.

Depth steps are the latent axis: thought z_t of a position is its state after step t, and step t + 1 reads it. Every
position of a text thinks, so no token frames the latent phase, and the keys and values of a layer are kept once per
depth: cache slot ``t * layers_per_step + layer`` and some more around the loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from latent_ext.models.thought_rule import DRAW_SHIFT, Draw

# (slot, query, key, value), flat rows of heads -> context; the caller keeps keys and values where it reads from.
Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class DepthSteps(ABC):
    """A depth-recurrent body in pieces.

    Attributes:
        depth: number of steps T.
        layers: number of cache slots.
        hidden_size: width of a thought.
        heads, kv_heads, head_dim: of every attention.
        scales: per slot, the factor on query times key.
        randomness: sampler parts that act.
    """

    depth: int
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    scales: list[float]
    randomness: tuple[str, ...]

    @abstractmethod
    def token_embedding(self, tokens: Tensor) -> Tensor:
        """int64 (...) -> (..., hidden)."""

    @abstractmethod
    def injected(self, inputs: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """inputs (rows, hidden) -> (rows, hidden), what every depth step of the position may read."""

    @abstractmethod
    def initial_state(self, injected: Tensor, draw: Draw | None) -> Tensor:
        """The state before the first step, (rows, hidden); without `draw` nothing is random."""

    @abstractmethod
    def step(self, t: int, state: Tensor, injected: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """State after step t + 1 from the state after step t (t = 0: the initial one), (rows, hidden)."""

    @abstractmethod
    def hidden(self, states: list[Tensor], positions: Tensor, attend: Attend) -> Tensor:
        """What the LM head reads, (rows, hidden), from the states after steps 1 .. T."""

    def disturbed(self, t: int, state: Tensor, draw: Draw) -> Tensor:
        """The state that step t + 1 reads, noise included: additive Gaussian noise on thoughts, z_t with t >= 1.

        Element ``t << 20 | feature`` of site NOISE at the token's position is drawn for feature of z_t.
        """
        noise = draw.parts.get("noise")
        if noise is None or t == 0:
            return state
        values = draw.normals(self._elements(t, state))
        wide = state.float()
        size = wide.square().mean(-1, keepdim=True).sqrt() if noise.relative else 1.0
        return (wide + noise.sigma * size * values).to(state.dtype)

    @staticmethod
    def _elements(t: int, state: Tensor) -> Tensor:
        return (t << DRAW_SHIFT) | torch.arange(state.shape[-1], device=state.device)
