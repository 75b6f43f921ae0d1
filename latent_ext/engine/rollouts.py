"""Monte-Carlo roll-outs: trajectories of the native engine, continued from one of their thoughts.

A roll-out inherits what its trajectory has read, the very cache entries, and draws anew from there on. Nothing is
read again, so the label of a thought belongs to the trajectory that is scored, not to a re-encoded copy of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine.base import LatentRequest, LatentRun
from latent_ext.engine.native import NativeEngine, _Pages, _State
from latent_ext.samplers import Sampler


def of_rows(run: LatentRun, rows: Tensor) -> LatentRun:
    """One trajectory each of some questions, as a run of its own whose caches hold nothing else.

    Args:
        run: of a `NativeEngine`; not changed.
        rows: int64 [questions], ascending, no two of one question.
    """
    state = run.state
    assert isinstance(state, _State)
    pages = _Pages(state.key, state.value, state.ancestry[rows], state.suffix_len[rows]).moved(0)
    keys = state.keys[rows]
    request = replace(
        run.request,
        prompts=[run.request.prompts[row // run.trajectories] for row in rows.tolist()],
        keys=keys.unsqueeze(1),
    )
    # A run's prompts are those of its questions, in order.
    own = replace(
        state,
        key=pages.key,
        value=pages.value,
        ancestry=pages.ancestry,
        suffix_len=pages.lengths,
        prompts=state.prompts.select(state.prompt_index[rows]),
        prompt_index=torch.arange(len(rows)),
        keys=keys,
    )
    return LatentRun(request, run.thoughts[rows], own, None if run.scores is None else run.scores[rows])


class Rollouts:
    """Room for the roll-outs of a finished latent phase.

    Args:
        engine: that sampled `run`.
        run: its trajectories; not changed.
        width: the largest number of roll-outs of a trajectory that will be asked for at a time.
    """

    def __init__(self, engine: NativeEngine, run: LatentRun, width: int) -> None:
        state = run.state
        assert isinstance(state, _State)
        self.engine, self.run, self.state, self.width = engine, run, state, width
        # Row r of an op writes to slot r: what the trajectories have read is kept behind all roll-outs.
        self.inherited = run.rows * width
        self.key, self.value = (self._with_room(cache) for cache in (state.key, state.value))

    @torch.no_grad()
    def continue_from(self, thought: int, keys: Tensor, sampler: Sampler) -> LatentRun:
        """Thoughts `thought` + 1 to T of every roll-out.

        Args:
            thought: t in [1, T - 1], counted from 1: the last thought that a roll-out shares with its trajectory.
            keys: int64 [rows of the run, M], M <= `width`; `latent_ext.ops.keys.rollout_key` derives them.
            sampler: of what follows, from the pass over thought t on; that of the trajectories, or none for the
                value under the noise-free policy.

        Returns:
            A run whose row r * M + m is roll-out m of row r, for `NativeEngine.answer`. The next call overwrites its
            caches.

        Raises:
            ValueError: for a thought after which there is none, or more roll-outs than there is room for.
        """
        run, state, packed = self.run, self.state, self.engine.packed
        steps = run.thoughts.shape[1]
        if not 1 <= thought < steps:
            raise ValueError(f"thought: got {thought}; 1 to {steps - 1} are allowed, of {steps} thoughts")
        if keys.shape[0] != run.rows or not 1 <= keys.shape[1] <= self.width:
            raise ValueError(
                f"keys: got shape {tuple(keys.shape)}; [{run.rows}, 1 to {self.width}] is needed"
            )
        count = keys.shape[1]
        source = torch.arange(run.rows).repeat_interleave(count)
        rows, room = len(source), self.key.shape[3]
        # All thoughts but the last are read in the latent phase; a start token before them where it is stochastic.
        held = room - (steps - 1) + thought - 1
        ancestry = torch.zeros(rows, room, dtype=torch.int64)
        ancestry[:, :held] = state.ancestry[source, :held] + self.inherited
        prompt_index, flat = state.prompt_index[source], keys.reshape(-1).contiguous()
        fresh = torch.empty(rows, steps - thought, run.thoughts.shape[2])
        dropout, noise = sampler.dropout, sampler.noise
        ops.latent_rollout(
            packed.data,
            packed.position_embedding,
            run.thoughts[source, thought - 1],
            False,
            flat,
            state.seed,
            prompt_index,
            state.prompts.lengths,
            state.prompts.key,
            state.prompts.value,
            self.key,
            self.value,
            ancestry,
            held,
            p=dropout.p if dropout else 0.0,
            per_trajectory=bool(dropout and dropout.per == "trajectory"),
            embedding=bool(dropout and dropout.sites == "residual+embedding"),
            svp=sampler.svp,
            sigma=noise.sigma if noise else 0.0,
            relative=bool(noise and noise.relative),
            questions=run.request.questions,
            thoughts=fresh,
            lineage=torch.empty(rows, steps - thought, dtype=torch.int64),
            final_keys=torch.empty(rows, dtype=torch.int64),
            final_prompts=torch.empty(rows, dtype=torch.int64),
        )
        thoughts = torch.cat([run.thoughts[source, :thought], fresh], dim=1)
        request = LatentRequest(
            run.request.prompts, flat.reshape(run.request.questions, -1), sampler, run.request.seed
        )
        branched = replace(
            state,
            key=self.key,
            value=self.value,
            ancestry=ancestry,
            suffix_len=torch.full((rows,), room),
            prompt_index=prompt_index,
            keys=flat,
        )
        return LatentRun(request, thoughts, branched)

    def _with_room(self, cache: Tensor) -> Tensor:
        layers, slots, *rest = cache.shape
        # Places that a trajectory does not reach are never read: T = 1 leaves one unwritten.
        new = cache.new_empty(layers, self.inherited + slots, *rest)
        new[:, self.inherited :] = cache
        return new
