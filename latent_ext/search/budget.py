"""What a search costs, counted in what it computes: trajectories, thoughts and answer tokens."""

from __future__ import annotations

from dataclasses import dataclass

from latent_ext.engine.base import Beam
from latent_ext.engine.beam import beam_widths


@dataclass(frozen=True)
class Budget:
    """Work on one question, beside reading its prompt once.

    Attributes:
        trajectories: that are left at the end.
        thoughts: that are formed, those of pruned trajectories and of a lookahead included; a reward reads as many,
            less those that rows end early.
        answer_tokens: of decoded answers, the end of sequence included.
    """

    trajectories: int
    thoughts: int
    answer_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.trajectories} trajectories, {self.thoughts} thoughts, {self.answer_tokens} answer tokens"
        )


def at_most(n: int, beam: Beam | None, *, steps: int, max_answer_tokens: int, decode_all: bool) -> Budget:
    """The most that a question can cost.

    Args:
        n: trajectories that form the first thought.
        beam: None without pruning.
        steps: thoughts of a trajectory, T.
        max_answer_tokens: of an answer.
        decode_all: every answer is decoded, and not one alone.

    >>> at_most(64, None, steps=6, max_answer_tokens=16, decode_all=False)
    Budget(trajectories=64, thoughts=384, answer_tokens=16)
    """
    left = n if beam is None else min(beam.keep, n)
    answers = left if decode_all else 1
    return Budget(left, thoughts_formed(n, beam, steps), answers * max_answer_tokens)


def thoughts_formed(n: int, beam: Beam | None, steps: int) -> int:
    """Thoughts that `n` trajectories form, with those that a beam search prunes or looks ahead to.

    >>> thoughts_formed(16, Beam(4, 4), 6), thoughts_formed(16, Beam(4, 4, lookahead=1), 6)
    (96, 176)
    """
    if beam is None:
        return n * steps
    rows = [n, *(width for _, width in beam_widths(beam, n, steps)[:-1])]
    return sum(count * (1 + min(beam.lookahead, steps - 1 - t)) for t, count in enumerate(rows))
