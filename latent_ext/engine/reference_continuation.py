"""engine="reference": continues trajectories one by one, from a copy of their cache that is cut behind what they keep."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from latent_ext.engine.base import LatentRun
from latent_ext.engine.reference import ReferenceEngine, _QuestionState
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM


def continue_rows(
    engine: ReferenceEngine,
    run: LatentRun,
    rows: Tensor,
    kept: int,
    keys: Tensor,
    reward: LatentRM,
    reward_cache: list[Tensor],
) -> LatentRun:
    """See `latent_ext.engine.continuation.continue_rows`."""
    places = [divmod(row, run.trajectories) for row in rows.tolist()]
    prompts = [run.request.prompts[b] for b, _ in places]
    request = replace(run.request, prompts=prompts, keys=keys)
    states, thoughts = [], []
    assert isinstance(run.state, list)
    for (b, n), row, own in zip(places, rows.tolist(), keys.to(engine.model.device), strict=True):
        state, stack = _continue(engine, run, run.state[b], n, run.thoughts[row, :kept], own)
        states.append(state)
        thoughts.append(stack)
    branched = LatentRun(request, torch.cat(thoughts), states)
    return engine.scored(branched, reward, reward_cache)


def _continue(
    engine: ReferenceEngine, run: LatentRun, state: _QuestionState, n: int, before: Tensor, keys: Tensor
) -> tuple[_QuestionState, Tensor]:
    """One trajectory, row n of its question, that keeps thoughts `before` [kept, hidden], under keys [M]."""
    kept, steps, count = len(before), run.thoughts.shape[1], len(keys)
    seed = torch.tensor([to_signed(run.request.seed)], dtype=torch.int64, device=keys.device)
    stochastic = RowDropout.of(run.request.sampler, seed, keys)
    # The cache holds the prompt and all thoughts but the last; that over the last one kept is read anew.
    length = state.length - (steps - 1)
    cache = copy.deepcopy(state.cache)
    cache.batch_select_indices(torch.tensor([n], device=keys.device))
    cache.crop(kept - steps)
    cache.batch_repeat_interleave(count)
    thoughts = [before[t].expand(count, -1) for t in range(kept)]
    for t in range(kept, steps):
        hidden = engine.read(thoughts[-1].unsqueeze(1), cache, length + t - 1, stochastic)
        thoughts.append(engine.next_thought(hidden, keys, length + t, seed, run.request.sampler))
    lineage = torch.arange(count, device=keys.device).unsqueeze(1).repeat(1, steps)
    return _QuestionState(cache, state.length, thoughts[-1], keys, lineage), torch.stack(thoughts, dim=1)
