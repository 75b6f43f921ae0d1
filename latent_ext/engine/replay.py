"""Clean replay: sampled thoughts are read again without dropout, so that the answer hangs on them alone.

Under Monte-Carlo dropout the masks stay in the cache entries of the thoughts, where no score on thoughts can see them.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from latent_ext.engine.base import Engine, LatentRun
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.semantics import Semantics

REPLAYS = ("none", "clean")


@runtime_checkable
class RereadingEngine(Engine, Protocol):
    """An engine that reads given thoughts."""

    def reread(self, run: LatentRun, rows: Tensor) -> LatentRun:
        """The run with caches that hold prompt and thoughts as read without randomness; the thoughts are the same.

        The last thought is left to `answer`, which reads it clean anyway.

        Args:
            run: of this engine's `sample`; not changed.
            rows: int64, ascending, those that will be answered; of the others the result's caches say nothing.

        Raises:
            RuntimeError: as `check_replay`.
        """


def check_replay(model: LatentModel) -> None:
    """Refuses models whose rows no engine can read again.

    Raises:
        RuntimeError: for a family with thoughts that no head forms, rows that stop by themselves, visible pads, or dropout
            in its answers.
    """
    if not isinstance(model.feedback, ThoughtHead):
        formed_by = type(model.feedback).__name__
        raise RuntimeError(f"replay: 'clean' needs thoughts that a head forms; got {formed_by}")
    semantics, plain = model.semantics, Semantics()
    for name in ("stop", "pads", "dropout_in_answer"):
        given, allowed = getattr(semantics, name), getattr(plain, name)
        if given != allowed:
            raise RuntimeError(f"replay: 'clean' needs {name}={allowed!r}; got {given!r}")
