"""`merge`: the ledgers of shards, or of runs that were cut in other ways, in one run in canonical order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_ext.durable import append_text
from latent_ext.evaluation.ledger import LEDGER, LedgerError, key_of, read_ledger, without_duplicates
from latent_ext.evaluation.run_directory import ATTEMPTS, RECIPE, RunDirectory, read_settings
from latent_ext.evaluation.settings import differences
from latent_ext.evaluation.summary import summarise


@dataclass(frozen=True)
class Merged:
    """What `merge_runs` made.

    Attributes:
        summary: as in summary.json.
        questions: results that are there.
        wanted: results that the recipe asks for.
    """

    summary: dict[str, Any]
    questions: int
    wanted: int


def merge_runs(sources: Sequence[str | Path], out: str | Path) -> Merged:
    """Joins runs of the same settings.

    Args:
        sources: directories of runs, at least one. They are left as they are.
        out: a directory without a ledger.

    Raises:
        LedgerError: if settings differ, naming what does; if two runs hold different results of one question; if a run
            is damaged, or `out` holds a ledger already.
    """
    if not sources:
        raise ValueError("runs: got none; at least one directory is needed")
    if (Path(out) / LEDGER).exists():
        raise LedgerError(f"out: {out} holds a ledger already; give another directory")
    settings = read_settings(sources[0])
    for source in sources[1:]:
        changed = differences(settings, read_settings(source))
        if changed:
            raise LedgerError(f"runs: {sources[0]} and {source} differ in {'; '.join(changed)}")
    gathered = [line for source in sources for line in read_ledger(source)]
    lines = without_duplicates(gathered, " and ".join(map(str, sources)))
    counts = {dataset["name"]: dataset["problems"] for dataset in settings["datasets"]}
    arms = [arm["name"] for arm in settings["arms"]]
    for line in lines:
        known = line["dataset"] in counts and line["arm"] in arms and line["seed"] in settings["seeds"]
        if not known or line["index"] >= counts[line["dataset"]]:
            raise LedgerError(
                f"runs: a result of dataset {line['dataset']}, arm {line['arm']}, seed {line['seed']}, question "
                f"{line['index']} is not what the settings ask for"
            )
    recipe = (Path(sources[0]) / RECIPE).read_text(encoding="utf-8")
    run = RunDirectory(out, settings, recipe, {key_of(line): (line["id"], line["gold"]) for line in lines})
    try:
        run.append(lines)
        summary = summarise(lines, settings)
        run.finish(summary, list(counts), arms)
        for source in sources:
            path = Path(source) / ATTEMPTS
            if path.exists():
                append_text(run.path / ATTEMPTS, path.read_text(encoding="utf-8", errors="replace"))
        run.log({"event": "merged", "runs": len(sources), "questions": len(lines)})
    finally:
        run.close()
    return Merged(summary, len(lines), sum(counts.values()) * len(arms) * len(settings["seeds"]))
