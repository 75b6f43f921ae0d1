"""The cells of a grid: trajectories times questions, for every shape and both selections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from case import SELECTS, Case

SIZES = (1, 4, 16, 64, 256)
QUESTIONS = (1, 4, 16)
SHAPE_ORDER = ("shipped", "gpt2", "llama")
GRIDS = ("quick", "full")

# What quick keeps of the random shapes, by (shape, select): the cells (N, questions) of the README's table and
# plot. The shipped model is small enough for the whole grid.
_QUICK = {
    ("gpt2", "best_of_n"): {(1, 1), (4, 1), (16, 1), (64, 1), (256, 1), (4, 4)},
    ("gpt2", "weighted_vote"): {(1, 1), (16, 1), (64, 1)},
    ("llama", "best_of_n"): {(1, 1), (16, 1)},
    ("llama", "weighted_vote"): {(16, 1)},
}


def cells(grid: str, settings: Case, shapes: tuple[str, ...] = SHAPE_ORDER) -> tuple[list[Case], list[Case]]:
    """The cells that are run, those of one shape and question count together, and those that are left out.

    Args:
        grid: "quick" or "full".
        settings: what all cells share.
        shapes: which shapes.

    Raises:
        ValueError: for an unknown grid.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid: got {grid!r}; allowed are {', '.join(GRIDS)}")
    taken, left_out = [], []
    for case in _all(settings, shapes):
        kept = _QUICK.get((case.shape, case.select))
        listed = (
            left_out
            if grid == "quick" and kept is not None and (case.n, case.questions) not in kept
            else taken
        )
        listed.append(case)
    return taken, left_out


def _all(settings: Case, shapes: tuple[str, ...]) -> Iterator[Case]:
    for shape in shapes:
        for questions in QUESTIONS:
            for select in SELECTS:
                for n in SIZES:
                    yield replace(settings, shape=shape, n=n, questions=questions, select=select)
