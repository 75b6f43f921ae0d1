"""CPU time of each phase of `latent_ext.solve`: read_prompts, sample, read_reward_prompts, score, answer.

The engine that `solve` chooses is wrapped for the time of a run; what an engine does inside one phase (a
native engine may score inside `sample`) counts there.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from latent_ext.engine import choose_engine


class _Timed:
    def __init__(self, engine: Any, spent: dict[str, float]) -> None:
        self._engine, self._spent = engine, spent

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._engine, name)
        if not callable(value) or name == "bytes_per_row":
            return value

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return value(*arguments, **named)
            finally:
                self._spent[name] += time.process_time() - start

        return timed


@contextmanager
def recorded_phases() -> Iterator[dict[str, float]]:
    """Within the context every `solve` adds its CPU-seconds by phase to the dictionary."""
    spent: dict[str, float] = defaultdict(float)

    def choose(*arguments: Any, **named: Any) -> Any:
        engine, choice = choose_engine(*arguments, **named)
        return _Timed(engine, spent), choice

    # The package's `solve` is the function; the module of that name is found here alone.
    module: Any = sys.modules["latent_ext.search.solve"]
    before = module.choose_engine
    module.choose_engine = choose
    try:
        yield spent
    finally:
        module.choose_engine = before
