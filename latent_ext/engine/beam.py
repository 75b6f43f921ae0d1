"""Beam search between thoughts: how many rows there are after each one, and which rows a question goes on with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.engine.base import Beam, LatentRequest
from latent_ext.models.depth import DepthSteps
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.keys import child_key
from latent_ext.ops.score_and_prune import best_first
from latent_ext.rewards.latent_rm import LatentRM


def check_beam(model: LatentModel) -> None:
    """Refuses models whose trajectories a beam search cannot compare thought by thought.

    Raises:
        ValueError: if rows end their thoughts by themselves, thoughts are depth steps, or there are none (T = 0).
    """
    if model.family.latent_length == 0:
        raise ValueError(
            "beam: trajectories are pruned after every thought; with latent_length=0 there is none"
        )
    what = why_uneven(model)
    if what is not None:
        raise ValueError(f"beam: trajectories are pruned after every thought, all at once; {what}")


def why_uneven(model: LatentModel) -> str | None:
    """Why the rows of a model do not think T thoughts side by side; None where they do."""
    feedback = model.feedback
    if isinstance(feedback, ThoughtHead) and model.semantics.stop == "fixed":
        return None
    what = (
        "thoughts are depth steps"
        if isinstance(feedback, DepthSteps)
        else "rows end their thoughts by themselves"
    )
    return f"the {what} in the family {model.family.name!r}"


def checked_beam(request: LatentRequest, reward: LatentRM | None, model: LatentModel) -> Beam | None:
    """The request's beam, or None.

    Raises:
        ValueError: for a beam without a reward, numbers below 1, or a model that `check_beam` refuses.
    """
    beam = request.beam
    if beam is None:
        return None
    check_beam(model)
    if reward is None:
        raise ValueError("reward: got None; a beam is pruned by the scores of a LatentRM")
    if beam.keep < 1 or beam.candidates < 1:
        raise ValueError(f"beam: got {beam}; at least 1 trajectory and 1 candidate are needed")
    check_subtrees(beam, request.trajectories)
    if beam.lookahead < 0:
        raise ValueError(f"lookahead: got {beam.lookahead}; a number of thoughts >= 0 is needed")
    return beam


def check_subtrees(beam: Beam, width: int) -> None:
    """Refuses subtrees that cannot be of equal size.

    Args:
        width: trajectories that form the first thought.

    Raises:
        ValueError: unless `subtrees` divides the trajectories that are kept and those that there are.
    """
    if beam.subtrees < 1 or beam.keep % beam.subtrees or width % beam.subtrees:
        raise ValueError(
            f"subtrees: got {beam.subtrees}; a number >= 1 is needed that divides {beam.keep} kept trajectories and "
            f"{width} at the first thought"
        )


def best_of_groups(ranks: Tensor, groups: int, keep: int) -> Tensor:
    """int64 [groups, keep], the best rows of each group of neighbours by ranks [rows]; ties to the smaller, NaN last."""
    size = len(ranks) // max(groups, 1)
    found = [
        start + best_first(ranks[start : start + size])[:keep] for start in range(0, len(ranks), size or 1)
    ]
    return torch.stack(found) if found else torch.zeros(0, keep, dtype=torch.int64, device=ranks.device)


def beam_widths(beam: Beam | None, width: int, steps: int) -> list[tuple[int, int]]:
    """Per thought, how many trajectories a question keeps after it, and how many they become for the next one.

    Args:
        beam: None for a run without pruning, which has no entries.
        width: trajectories that form the first thought.
        steps: number of thoughts T; the last one's trajectories do not branch.
    """
    if beam is None:
        return []
    widths = []
    for t in range(steps):
        keep = min(beam.keep, width)
        width = keep * (beam.candidates if t + 1 < steps else 1)
        widths.append((keep, width))
    return widths


def row_of_question(lineage: Tensor, width: int, widths: list[tuple[int, int]]) -> Tensor:
    """lineage [rows, T] of rows of a batch -> the same of rows counted within their question.

    Args:
        width: trajectories of each question that form the first thought.
        widths: as `beam_widths` gives them.
    """
    per_step = torch.tensor([width, *(rows for _, rows in widths[:-1])], device=lineage.device)
    return lineage % per_step


@dataclass(frozen=True)
class Branching:
    """What becomes of the rows of a batch between two thoughts.

    Attributes:
        parents: int64 [rows afterwards], the row that each one continues.
        keys: int64 [rows afterwards], their keys.
    """

    parents: Tensor
    keys: Tensor

    @classmethod
    def after(cls, best: Tensor, keys: Tensor, step: int, children: int) -> Branching:
        """The kept rows in their old order, each `children` times.

        Args:
            best: int64, rows that go on, in any order and shape.
            keys: int64 [rows].
            step: thoughts formed so far.
            children: 1 to only prune.
        """
        kept = best.reshape(-1).sort().values
        numbers = torch.arange(children, device=keys.device)
        child_keys = child_key(keys[kept].unsqueeze(1), step, numbers).reshape(-1)
        return cls(kept.repeat_interleave(children), child_keys)
