"""Monte-Carlo roll-outs as a careful PyTorch user would write them with Hugging Face's own parts.

The trajectories are sampled once; for each thought their cache is cut to what was read before it, expanded into a
static cache of exactly the places needed, and continued; all answers of a thought are decoded as one batch. Nothing is
encoded again. The published code instead reads prompt and thoughts anew for every roll-out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from baselines.careful import _Batch, _expand
from baselines.randomness import Randomness
from baselines.task import Prompts, Task


@torch.no_grad()
def rollout_answers(
    task: Task, randomness: Randomness, branched: Callable[[int], Randomness], rollouts: int
) -> list[list[list[int]]]:
    """Answers of all trajectories and roll-outs.

    Args:
        task: what is asked; all of its rows are in memory together.
        randomness: of the trajectories.
        branched: thought t in [1, T - 1] -> randomness of the roll-outs that go on from it, whose row
            ``row * rollouts + m`` is roll-out m of a trajectory.
        rollouts: M of each thought but the last.

    Returns:
        T lists of token lists: [t - 1] of the roll-outs from thought t, and last those of the trajectories.
    """
    batch = _Batch(task, Prompts.of(task.model, task.questions), torch.arange(task.rows), randomness)
    thoughts = batch.think()
    source = torch.arange(task.rows).repeat_interleave(rollouts)
    answers = [_continued(batch, thoughts, source, t, branched(t)) for t in range(1, task.latent_length)]
    return [*answers, batch.answer(thoughts[:, -1], torch.arange(task.rows))]


def _continued(
    batch: _Batch, thoughts: Tensor, source: Tensor, t: int, randomness: Randomness
) -> list[list[int]]:
    task, rows = batch.task, torch.arange(len(source))
    branch = copy.copy(batch)
    branch.rows, branch.randomness, branch.prompts = rows, randomness, batch.prompts.select(source)
    places = batch.length + task.latent_length
    branch.cache = _expand(batch.cache, source, task.model.hf.config, places, held=batch.length + t - 1)
    thought = thoughts[source, t - 1]
    for step in range(t, task.latent_length):
        hidden = branch._read(thought.unsqueeze(1), batch.length + step - 1, stochastic=True)
        thought = randomness.noisy(hidden, rows, branch.prompts.lengths + step)
    return branch.answer(thought, rows)
