"""Memory is planned before the run: which questions go together, and how many trajectories at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """Work that is in memory together.

    Attributes:
        questions: indices into the run's questions; their prompts are read once for all of the chunk's parts.
        parts: half-open ranges of trajectory numbers, run one after another.
        answer_limit: answer tokens for which every question of the chunk has positions left.
    """

    questions: tuple[int, ...]
    parts: tuple[tuple[int, int], ...]
    answer_limit: int


def plan(
    prompt_lengths: Sequence[int],
    answer_limits: Sequence[int],
    trajectories: int,
    row_bytes: Callable[[int], int],
    *,
    memory_bytes: int,
    max_rows: int | None = None,
    whole: bool = False,
) -> Iterator[Chunk]:
    """Chunks that fit into `memory_bytes`; they change memory and speed, never results.

    Args:
        prompt_lengths: tokens of each question's prompt; similar lengths go together, so that little is
            padded.
        answer_limits: answer tokens for which each question has positions.
        trajectories: N per question.
        row_bytes: prompt length -> bytes of one trajectory.
        memory_bytes: budget; a single row is run whatever it takes.
        max_rows: further bound on rows at a time.
        whole: never cut a question: its trajectories must meet, as in a beam search, whatever they take.

    Raises:
        ValueError: if `memory_bytes` or `max_rows` is not positive.
    """
    if memory_bytes <= 0:
        raise ValueError(f"memory_bytes: got {memory_bytes}; a positive number of bytes is needed")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows: got {max_rows}; at least 1 is needed")
    order = sorted(range(len(prompt_lengths)), key=lambda b: (answer_limits[b], prompt_lengths[b], b))
    start = 0
    while start < len(order):
        limit = answer_limits[order[start]]
        end = start
        rows = 0
        while end < len(order) and answer_limits[order[end]] == limit:
            fitting = max(1, memory_bytes // max(1, row_bytes(prompt_lengths[order[end]])))
            fitting = min(fitting, max_rows) if max_rows is not None else fitting
            if end > start and rows + trajectories > fitting:
                break
            rows += trajectories
            end += 1
            if rows > fitting:
                break
        width = trajectories if whole else max(1, min(trajectories, fitting))
        parts = tuple((n, min(n + width, trajectories)) for n in range(0, trajectories, width))
        yield Chunk(tuple(order[start:end]), parts, limit)
        start = end
