"""Clean replay: sampled thoughts are read again without dropout, so that the answer hangs on them alone.

Under Monte-Carlo dropout the masks stay in the cache entries of the thoughts, where no score on thoughts can see them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import DynamicCache

from latent_ext.engine.base import Engine, LatentRun
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.semantics import Semantics

REPLAYS = ("none", "clean")


def check_replay(engine: Engine, model: LatentModel) -> None:
    """Refuses what `reread` cannot do.

    Raises:
        RuntimeError: for an engine that cannot be given thoughts, or a family with rows that stop by themselves, visible
            pads, dropout in its answers, or thoughts that no head states.
    """
    if type(engine) is not ReferenceEngine:
        raise RuntimeError(
            "replay: 'clean' under dropout or noise on W_V needs an engine that reads given thoughts: reference; got "
            f"{engine.name}, {type(engine).__name__}"
        )
    semantics, plain = model.semantics, Semantics()
    for name in ("stop", "pads", "dropout_in_answer"):
        if getattr(semantics, name) != getattr(plain, name):
            raise RuntimeError(f"replay: 'clean' is not known for {name}={getattr(semantics, name)!r}")


@torch.no_grad()
def reread(engine: ReferenceEngine, run: LatentRun) -> LatentRun:
    """The run with caches that hold prompt and thoughts as read without dropout; the thoughts are the same.

    Args:
        engine: that sampled `run`, and passed `check_replay`.
        run: its trajectories; not changed.
    """
    states, width, old = [], run.trajectories, run.state
    assert isinstance(old, list)
    for b, (prompt, state) in enumerate(zip(run.request.prompts, old, strict=True)):
        seed = torch.zeros(1, dtype=torch.int64, device=state.keys.device)
        cache = DynamicCache()
        engine.read(engine.embed(prompt.unsqueeze(0)), cache, 0, RowDropout.clean(seed, state.keys[:1]))
        cache.batch_repeat_interleave(width)
        before = run.thoughts[b * width : (b + 1) * width, :-1]
        if before.shape[1]:
            engine.read(before, cache, len(prompt), RowDropout.clean(seed, state.keys))
        states.append(replace(state, cache=cache))
    return replace(run, state=states)
