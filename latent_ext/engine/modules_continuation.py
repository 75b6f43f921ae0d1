"""engine="modules": continues trajectories from copies of their pages, which are read only as far as they are kept."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latent_ext.engine.base import LatentRun
from latent_ext.engine.decoder import Prompts, move_pages, step
from latent_ext.engine.modules import ModulesEngine, _State
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.rewards.latent_rm import LatentRM


def continue_rows(
    engine: ModulesEngine,
    run: LatentRun,
    rows: Tensor,
    kept: int,
    keys: Tensor,
    reward: LatentRM,
    reward_cache: Prompts,
) -> LatentRun:
    """See `latent_ext.engine.continuation.continue_rows`."""
    state, sampler, steps = run.state, run.request.sampler, run.thoughts.shape[1]
    assert isinstance(state, _State)
    prompts = [run.request.prompts[row // run.trajectories] for row in rows.tolist()]
    flat = keys.reshape(-1).to(engine.model.device)
    rows = rows.to(flat.device)
    question = torch.arange(len(rows), device=flat.device).repeat_interleave(keys.shape[1])
    source = rows[question]
    # The last prompt token and all thoughts but the last, which the answer phase reads.
    pages = move_pages(state.pages, source, 1 + steps)
    # The pass over the last thought that is kept is drawn anew.
    pages.lengths = pages.lengths - (steps - kept)
    read, pages.prompt_index = state.prompts.select(pages.prompt_index[:: keys.shape[1]]), question
    thoughts = run.thoughts[source].clone()
    thought = thoughts[:, kept - 1].contiguous()
    dropout = RowDropout.of(sampler, state.seed, flat)
    for t in range(kept, steps):
        hidden = step(engine.blocks, thought, read, pages, dropout)
        engine.next_thought(hidden, read, pages, flat, state.seed, sampler, t, thought, thoughts)
    request = replace(run.request, prompts=prompts, keys=keys)
    branched = LatentRun(request, thoughts, _State(read, pages, thought, flat, state.seed))
    return engine.scored(branched, reward, reward_cache)
