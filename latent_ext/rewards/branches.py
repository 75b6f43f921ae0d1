"""Many trajectories behind one copy of their prompt: places and what each may look at, for one pass of a body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Trajectories that one pass of a body reads: the mask grows with their square.
ONE_PASS = 32


def trajectory_layout(steps: int, tails: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """One trajectory: its thoughts, then texts of which each follows the thoughts and sees no other.

    Args:
        steps: T thoughts.
        tails: tokens of each text.

    Returns:
        int64 [T + tokens], places counted from the end of the prompt; bool [T + tokens, the same], whether a place (row)
        sees another (column).
    """
    places = torch.cat([torch.arange(steps), *(steps + torch.arange(tail) for tail in tails)])
    size = steps + sum(tails)
    sees = torch.ones(size, size, dtype=torch.bool).tril()
    start = steps
    for tail in tails:
        sees[start + tail :, start : start + tail] = False
        start += tail
    return places, sees


def branches(lengths: Tensor, count: int, layout: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts, each followed by all its trajectories one after another.

    Args:
        lengths: int64 [questions], of the prompts, which are padded on the right.
        count: N trajectories of each.
        layout: of one, from `trajectory_layout`.

    Returns:
        positions, int64 [questions, longest + N * size]; mask, float32 [questions, 1, longest + N * size, the same], 0 where
        a place may look and -inf elsewhere.
    """
    places, sees_own = layout
    questions, longest, size = len(lengths), int(lengths.max()), len(places)
    place = torch.arange(longest)
    behind = lengths.unsqueeze(1) + places.repeat(count)
    positions = torch.cat([place.expand(questions, longest), behind], dim=1)
    sees = torch.zeros(questions, 1, positions.shape[1], positions.shape[1], dtype=torch.bool)
    sees[:, 0, :longest, :longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
    sees[:, 0, longest:, :longest] = (place < lengths.unsqueeze(1)).unsqueeze(1)
    for n in range(count):
        own = slice(longest + n * size, longest + (n + 1) * size)
        sees[:, 0, own, own] = sees_own
    return positions, torch.zeros(sees.shape).masked_fill_(~sees, float("-inf"))


def read_together(
    thoughts: Sequence[Tensor], numbers: Sequence[int], most: int = ONE_PASS
) -> Iterator[tuple[int, list[int]]]:
    """Cuts a question's trajectories into those that one pass reads: of one length, and at most so many.

    Args:
        thoughts: per trajectory [steps, hidden].
        numbers: of the trajectories that are to be read.
        most: at least 1.

    Yields:
        Steps, and numbers in rising order.
    """
    by_steps: dict[int, list[int]] = {}
    for n in numbers:
        by_steps.setdefault(len(thoughts[n]), []).append(n)
    for steps, listed in by_steps.items():
        for start in range(0, len(listed), most):
            yield steps, listed[start : start + most]
