"""Trajectories that are continued: each keeps its first thoughts and draws the others anew, under keys of their own.

What was read is kept, the very cache entries; the pass over the last thought that is kept is the first to be drawn anew.
Scores of the thoughts that are kept stay, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from latent_ext.engine import modules_continuation, native_steps, reference_continuation
from latent_ext.engine.base import Engine, LatentRun, PromptCache
from latent_ext.engine.beam import why_uneven
from latent_ext.engine.modules import ModulesEngine
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.engine.rollouts import Rollouts, of_rows
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM


def check_continuable(model: LatentModel) -> None:
    """Refuses models whose trajectories have no thought to be continued from.

    Raises:
        ValueError: if rows end their thoughts by themselves, thoughts are depth steps, or there are fewer than two.
    """
    steps, what = model.family.latent_length, why_uneven(model)
    if what is None and steps < 2:
        what = f"latent_length={steps} leaves none"
    if what is not None:
        raise ValueError(f"extend: a trajectory is continued from one of its thoughts but the last; {what}")


@torch.no_grad()
def continue_rows(
    engine: Engine,
    run: LatentRun,
    rows: Tensor,
    kept: int,
    keys: Tensor,
    reward: LatentRM,
    reward_cache: PromptCache,
) -> LatentRun:
    """Draws the thoughts behind the first `kept` of some trajectories, several times.

    Args:
        engine: that sampled `run`, of a model that `check_continuable` has nothing against.
        run: with scores; not changed.
        rows: int64 [R], ascending: the rows of the run that are continued, no two of one question.
        kept: thoughts that stay, 1 to T - 1.
        keys: int64 [R, M], of the continuations; `latent_ext.ops.keys.rollout_key` derives them.
        reward: scores them.
        reward_cache: of the R questions, from `engine.read_reward_prompts`.

    Returns:
        A run of R questions with M trajectories each.

    Raises:
        ValueError: for a number of thoughts after which there are none.
        RuntimeError: for an engine that cannot continue trajectories.
    """
    steps = run.thoughts.shape[1]
    if not 1 <= kept < steps:
        raise ValueError(f"kept: got {kept}; 1 to {steps - 1} are allowed, of {steps} thoughts")
    by_engine = _BY_ENGINE.get(type(engine))
    if by_engine is None:
        raise RuntimeError(
            f"extend: got {engine.name}, {type(engine).__name__}, which continues no trajectory"
        )
    branched = by_engine(engine, run, rows, kept, keys, reward, reward_cache)
    assert run.scores is not None
    assert branched.scores is not None
    branched.scores[:, :kept] = run.scores[rows, :kept].repeat_interleave(keys.shape[1], dim=0)
    return branched


def _native(
    engine: NativeEngine,
    run: LatentRun,
    rows: Tensor,
    kept: int,
    keys: Tensor,
    reward: LatentRM,
    reward_cache: PromptCache,
) -> LatentRun:
    parents = of_rows(run, rows)
    branched = Rollouts(engine, parents, keys.shape[1]).continue_from(kept, keys, run.request.sampler)
    return replace(branched, scores=native_steps.scores_of(engine, branched.thoughts, reward, reward_cache))


_BY_ENGINE: dict[type, Callable[..., LatentRun]] = {
    NativeEngine: _native,
    ModulesEngine: modules_continuation.continue_rows,
    ReferenceEngine: reference_continuation.continue_rows,
}
