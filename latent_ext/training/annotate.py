"""`annotate`: labels for a file of problems, written as they come, so that an interruption loses next to nothing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from latent_ext._version import __version__
from latent_ext.evaluation.problems import NamedProblem
from latent_ext.models.answers import canonical_number
from latent_ext.models.latent_model import LatentModel
from latent_ext.training.index import LabelError
from latent_ext.training.labels import Labeller, LabelSettings, described
from latent_ext.training.shards import LabelStore

Progress = Callable[[int, int], None]


def annotate(
    model: LatentModel,
    problems: Sequence[NamedProblem],
    directory: str | Path,
    settings: LabelSettings,
    *,
    weights: str = "fp32",
    part_size: int = 64,
    stored_as: str = "float32",
    progress: Progress | None = None,
) -> int:
    """Labels the problems that `directory` does not hold yet.

    Questions whose trajectories are all right or all wrong are kept, with a flag in the index, and so are golds of 0.

    Args:
        model: a generator for the native engine.
        problems: each with a gold answer that is a number. A longer file whose beginning is the same goes on where a
            shorter one ended.
        directory: see `latent_ext.training.shards`.
        settings: what labels depend on.
        weights: number format of the native engine.
        part_size: questions that are labelled, written and, after a crash, lost together.
        stored_as: dtype of thoughts on disk.
        progress: called with (questions done, questions in all).

    Returns:
        How many questions were labelled now.

    Raises:
        ValueError: naming the argument or problem at fault, before anything is computed.
        LabelError: if the directory belongs to another annotation or another process writes to it.
    """
    if part_size < 1:
        raise ValueError(f"part_size: got {part_size}; at least 1 question is needed")
    golds = []
    for problem in problems:
        gold = None if problem.answer is None else canonical_number(problem.answer)
        if gold is None:
            raise ValueError(f"problem {problem.id}: got answer {problem.answer!r}; a number is needed")
        golds.append(gold)
        try:
            model.encode(problem.question)
        except ValueError as error:
            raise ValueError(f"problem {problem.id}: {error}") from None
    labeller = Labeller(model, settings, weights)
    store = LabelStore(directory, described(model, settings, weights), stored_as=stored_as)
    try:
        for line in store.index:
            place = line["place"]
            there = (line["id"], line["gold"])
            given = (problems[place].id, golds[place]) if place < len(problems) else there
            if given != there:
                raise LabelError(
                    f"directory: {directory} holds problem {there[0]!r} with answer {there[1]} at place {place}; "
                    f"the file has {given[0]!r} with {given[1]} there"
                )
        done = store.places
        missing = [place for place in range(len(problems)) if place not in done]
        attempt = {"host": platform.node(), "pid": os.getpid(), "version": __version__}
        store.log({"at": _now(), "event": "started", "missing": len(missing), **attempt})
        for start in range(0, len(missing), part_size):
            places = missing[start : start + part_size]
            own = [problems[place] for place in places]
            began = time.monotonic()
            labelled = list(
                labeller.label([p.id for p in own], [p.question for p in own], [golds[i] for i in places])
            )
            store.append(places, labelled)
            seconds = round(time.monotonic() - began, 3)
            store.log({"at": _now(), "event": "part", "questions": len(own), "seconds": seconds})
            if progress is not None:
                progress(len(problems) - len(missing) + start + len(own), len(problems))
        return len(missing)
    finally:
        store.close()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
