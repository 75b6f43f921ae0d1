"""One pass of a depth-recurrent body over flat rows: prelude, T steps, what the LM head reads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latent_ext.models.depth import Attend, DepthSteps
from latent_ext.models.thought_rule import Draw


class DepthPass(NamedTuple):
    """What a pass leaves.

    Attributes:
        hidden: [rows, hidden], what the LM head reads.
        thoughts: [rows, T, hidden], the states after steps 1 .. T as they were read on, noise included.
    """

    hidden: Tensor
    thoughts: Tensor


def run_depth(
    steps: DepthSteps,
    inputs: Tensor,
    draw: Draw,
    attend: Attend,
    random_rows: Tensor | None = None,
) -> DepthPass:
    """Reads inputs [rows, hidden] at ``draw.positions``.

    Args:
        steps: the body.
        inputs: token embeddings.
        draw: positions, and the random numbers of every row; without parts the pass is clean.
        attend: keeps keys and values per slot and returns the context.
        random_rows: bool [rows], rows in which randomness acts; None: all.
    """

    def where_random(random: Tensor, clean: Tensor) -> Tensor:
        return random if random_rows is None else torch.where(random_rows.unsqueeze(1), random, clean)

    positions = draw.positions
    injected = steps.injected(inputs, positions, attend)
    state = steps.initial_state(injected, None)
    if draw.parts:
        state = where_random(steps.initial_state(injected, draw), state)
        state = where_random(steps.disturbed(0, state, draw), state)
    states = []
    for t in range(steps.depth):
        state = steps.step(t, state, injected, positions, attend)
        if draw.parts and t + 1 < steps.depth:
            state = where_random(steps.disturbed(t + 1, state, draw), state)
        states.append(state)
    return DepthPass(steps.hidden(states, positions, attend), torch.stack(states, dim=1))
