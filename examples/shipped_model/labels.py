"""Monte-Carlo labels: how often does a trajectory come out right when it is continued from its t-th thought?

Every sampled trajectory is branched after each of its thoughts. A branch starts from the trajectory's own
cache and draws fresh randomness for all that follows; its answer is compared with the question's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sampling import LatentSampler
from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """Trajectories of one question: thoughts [rows, steps, hidden] and values [rows, steps] in [0, 1]."""

    prompt: bytes
    thoughts: Tensor
    values: Tensor

    @property
    def mixed(self) -> bool:
        """Whether there is anything to learn: some continuation came out right and some did not."""
        return 0.0 < float(self.values.mean()) < 1.0


@torch.no_grad()
def label(
    sampler: LatentSampler, prompts: list[bytes], answers: list[bytes], rows: int, rollouts: int
) -> list[Labelled]:
    """Samples `rows` trajectories per question and labels each step with `rollouts` continuations.

    The value after the last thought is 0 or 1: the answer is read without noise, so there is nothing left
    to draw.
    """
    steps = sampler.thoughts
    questions = sampler.read(prompts)
    state, thought = sampler.begin(questions, rows)
    kept = [thought]
    for step in range(steps - 1):
        if rollouts:
            state = state.joined(state.first(rows).repeated(rollouts))
            thought = torch.cat([thought, thought[:, :rows].repeat(1, rollouts, 1)], 1)
        thought = sampler.think(questions, state, thought, step)
        kept.append(thought[:, :rows])
    right = sampler.correct(questions, state, thought, answers).float()
    own = right[:, None, :rows]
    if rollouts:
        branched = right[:, rows:].view(len(prompts), steps - 1, rollouts, rows).mean(2)
    else:
        branched = own.expand(-1, steps - 1, -1)
    values = torch.cat([branched, own], 1).transpose(1, 2).contiguous()  # [questions, rows, steps]
    thoughts = torch.stack(kept, 2)
    return [Labelled(*fields) for fields in zip(prompts, thoughts, values, strict=True)]
