"""How a run was executed, from its diary attempts.jsonl: of no consequence for the results, but worth knowing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Of an entry "started" these say when, where and how much, not how the work was cut.
_NO_CUT = ("event", "at", "host", "pid", "missing", "of")


def execution_facts(attempts: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what, value) pairs: attempts, time, workers, failures, and every setting of how the work was cut.

    Args:
        attempts: entries of attempts.jsonl. Their "event" is "started" (executor, shard, threads, batch, ...), "batch"
            (seconds, host, pid), "failed", "finished", "forced" (changed) or "merged" (runs).
    """
    if not attempts:
        return [("attempts", "no attempts.jsonl")]
    by_event: dict[str, list[dict[str, Any]]] = {}
    for entry in attempts:
        by_event.setdefault(str(entry.get("event")), []).append(entry)
    started, batches = by_event.get("started", []), by_event.get("batch", [])
    finished = len(by_event.get("finished", []))
    facts: list[tuple[str, str]] = []
    if started:
        facts.append(("attempts", f"{len(started)}, of which {finished} came to their end"))
    times = [
        str(entry["at"])[:19].replace("T", " ") for entry in attempts if isinstance(entry.get("at"), str)
    ]
    if times:
        facts.append(("first and last entry (UTC)", f"{times[0]}, {times[-1]}"))
    seconds = [entry["seconds"] for entry in batches if isinstance(entry.get("seconds"), (int, float))]
    if seconds:
        facts.append(("time in solve, over all workers", f"{sum(seconds):,.0f} s in {len(seconds)} batches"))
        workers = {(str(entry.get("host")), str(entry.get("pid"))) for entry in batches}
        facts.append(("processes, hosts", f"{len(workers)}, {len({host for host, _ in workers})}"))
    for key in sorted({key for entry in started for key in entry} - set(_NO_CUT)):
        values = list(dict.fromkeys(str(entry[key]) for entry in started if entry.get(key) is not None))
        if values:
            facts.append((key.replace("_", " "), ", then ".join(values)))
    facts.append(("failures on the way", str(len(by_event.get("failed", [])))))
    if "forced" in by_event:
        changed = "; ".join(str(entry.get("changed")) for entry in by_event["forced"])
        facts.append(("forced over changed settings", changed))
    if "merged" in by_event:
        facts.append(("merged from", f"{by_event['merged'][-1].get('runs')} runs"))
    return facts
