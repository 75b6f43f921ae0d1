"""Records as one readable text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_cells.targets import TARGETS

Record = dict[str, Any]


def readable(records: list[Record]) -> str:
    """Stages, targets, then every cell; what failed says why in the place of its figures."""
    parts = []
    for record in records:
        if record["kind"] == "machine":
            named = (
                "device",
                "torch",
                "cuda",
                "transformers",
                "driver",
                "copy_gigabytes_per_s",
                "latent_ext",
            )
            parts.append(
                ", ".join(f"{name} {record[name]}" for name in named if record.get(name) is not None)
            )
    stages = [record for record in records if record["kind"] == "stage"]
    if stages:
        rows = [(r["stage"], r["outcome"], f"{r['seconds']:.0f} s", r.get("why", "")) for r in stages]
        parts.append(_table("Stages", ("stage", "outcome", "time", ""), rows))
    if any(record["kind"] in ("latent", "solve", "op") for record in records):
        parts.append(
            _table("Targets (set for an H200)", ("figure", "target", "seen", "reached"), _targets(records))
        )
    latent = [_latent(r) for r in records if r["kind"] == "latent"]
    if latent:
        names = (
            "shape",
            "format",
            "B",
            "N",
            "LatentRM",
            "beam",
            "method",
            "us",
            "us/step",
            "kernels",
            "launches",
            "bandwidth",
        )
        parts.append(_table("Latent phase, T steps, noise", names, latent))
    solves = [_solve(r) for r in records if r["kind"] == "solve"]
    if solves:
        names = ("shape", "format", "N", "select", "method", "ms", "kernels", "launches")
        parts.append(_table("solve, one question, end to end", names, solves))
    ops = [_op(r) for r in records if r["kind"] == "op"]
    if ops:
        parts.append(_table("Ops", ("op", "rows", "hidden", "format", "us", "copy us", "times a copy"), ops))
    failures = [r for r in records if r["kind"] == "failure"]
    parts += [f"failed: {record['what']}: {record['failure']}" for record in failures]
    left_out = [str(record["what"]) for record in records if record["kind"] == "left_out"]
    parts += [f"left out: {', '.join(left_out)}"] if left_out else []
    return "\n\n".join(parts) + "\n"


def _targets(records: list[Record]) -> list[Sequence[str]]:
    rows = []
    for target in TARGETS:
        value, reached = target.value(records), target.reached(records)
        sign = "<=" if target.at_most else ">="
        seen = "not measured" if value is None else f"{value:.3g} {target.unit}"
        verdict = {None: "", True: "yes", False: "NO"}[reached]
        rows.append((target.what, f"{sign} {target.limit:g} {target.unit}", seen, verdict))
    return rows


def _launches(record: Record) -> tuple[str, str]:
    counted = record.get("launches") or {}
    return str(counted.get("kernels", "")), str(counted.get("host_launches", ""))


def _latent(r: Record) -> Sequence[str]:
    what = [
        r["shape"],
        r["weights"],
        str(r["questions"]),
        str(r["n"]),
        "yes" if r["with_reward"] else "",
        r["beam"],
        r["method"],
    ]
    if "failure" in r:
        return [*what, r["failure"]]
    share = f"{100 * r['share_of_bandwidth']:.0f} %"
    return [*what, f"{r['microseconds']:.0f}", f"{r['microseconds_per_step']:.0f}", *_launches(r), share]


def _solve(r: Record) -> Sequence[str]:
    what = [r["shape"], r["weights"], str(r["n"]), r["select"], r["method"]]
    return (
        [*what, r["failure"]] if "failure" in r else [*what, f"{r['microseconds'] / 1e3:.2f}", *_launches(r)]
    )


def _op(r: Record) -> Sequence[str]:
    what = [r["method"], str(r["rows"]), str(r["hidden"]), r["weights"]]
    if "failure" in r:
        return [*what, r["failure"]]
    return [*what, f"{r['microseconds']:.1f}", f"{r['copy_microseconds']:.1f}", f"{r['times_a_copy']:.2f}"]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their cells; the last cell of a row may run on."""
    filled = [[*row, *[""] * (len(names) - len(row))] for row in rows]
    widths = [len(name) for name in names]
    for row, original in zip(filled, rows, strict=True):
        for column, cell in enumerate(row):
            if column + 1 < len(original):
                widths[column] = max(widths[column], len(cell))
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [names, *filled]
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([title, *lines])
