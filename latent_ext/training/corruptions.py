"""Orders of thoughts that no trajectory has: what an order preference holds against the sampled order."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = ("neighbours exchanged", "two stretches exchanged", "three stretches turned", "reversed")


def corrupted_orders(steps: int, generator: torch.Generator) -> Tensor:
    """One order of each level, mildest first.

    Args:
        steps: T >= 4 thoughts.
        generator: draws where the cuts are.

    Returns:
        int64 [levels, T]: which thought stands at each step.

    Raises:
        ValueError: for fewer thoughts, of which the levels would be the same.
    """
    if steps < 4:
        raise ValueError(f"steps: got {steps}; an order preference needs at least 4 thoughts")
    place = torch.arange(steps)
    first = int(torch.randint(steps - 1, (), generator=generator))
    neighbours = place.clone()
    neighbours[[first, first + 1]] = place[[first + 1, first]]
    cut = int(torch.randint(2, steps - 1, (), generator=generator))
    two = torch.cat([place[cut:], place[:cut]])
    low, high = sorted((torch.randperm(steps - 1, generator=generator)[:2] + 1).tolist())
    three = torch.cat([place[high:], place[low:high], place[:low]])
    return torch.stack([neighbours, two, three, place.flip(0)])
