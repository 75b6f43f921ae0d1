"""How a run was executed, from its diary attempts.jsonl: of no consequence for the results, but worth knowing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def execution_facts(attempts: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what, value) pairs: attempts, time, workers, failures, and every setting of how the work was cut.

    Args:
        attempts: entries of attempts.jsonl; each has "at", and what it reports besides.
    """
    if not attempts:
        return [("attempts", "no attempts.jsonl")]
    facts: list[tuple[str, str]] = []
    starts = [entry for entry in attempts if entry.get("event") == "start"]
    if starts:
        facts.append(("attempts", str(len(starts))))
    times = [str(entry["at"])[:19] for entry in attempts if isinstance(entry.get("at"), str)]
    if times:
        facts.append(("first entry, last entry (UTC)", f"{times[0]}, {times[-1]}"))
    units = [entry for entry in attempts if isinstance(entry.get("seconds"), (int, float))]
    if units:
        facts.append(("solving, summed over workers", f"{sum(entry['seconds'] for entry in units):.0f} s"))
        facts.append(("calls of solve", str(len(units))))
    workers = {
        (str(worker.get("host")), str(worker.get("pid")))
        for entry in attempts
        if isinstance(worker := entry.get("worker"), dict)
    }
    if workers:
        hosts = len({host for host, _ in workers})
        facts.append(("worker processes, hosts", f"{len(workers)}, {hosts}"))
    failures = [
        one for entry in attempts if isinstance(found := entry.get("failures"), list) for one in found
    ]
    facts.append(("failures on the way", str(len(failures))))
    if any(entry.get("event") == "forced" for entry in attempts):
        changed = [str(entry.get("changed")) for entry in attempts if entry.get("event") == "forced"]
        facts.append(("forced over changed settings", "; ".join(changed)))
    for key in sorted({key for entry in starts for key in entry} - {"event", "at", "pid", "host", "worker"}):
        values = list(dict.fromkeys(str(entry[key]) for entry in starts if entry.get(key) is not None))
        if values:
            facts.append((key.replace("_", " "), ", then ".join(values)))
    return facts
