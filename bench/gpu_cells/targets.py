"""The figures that were set as targets for an H200, and what a run's records say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One figure; `value` finds it among the records, None where it was not measured or was wrong."""

    what: str
    unit: str
    limit: float
    at_most: bool
    value: Callable[[list[Record]], float | None]

    def reached(self, records: list[Record]) -> bool | None:
        value = self.value(records)
        if value is None:
            return None
        return value <= self.limit if self.at_most else value >= self.limit


def _times(records: list[Record], **wanted: Any) -> list[Record]:
    return [
        r
        for r in records
        if "microseconds" in r and all(r.get(name) == value for name, value in wanted.items())
    ]


def _best(records: list[Record], prefix: str = "ours", **wanted: Any) -> float | None:
    found = [r["microseconds"] for r in _times(records, **wanted) if r["method"].startswith(prefix)]
    return min(found) if found else None


_GPT2 = {"kind": "latent", "shape": "gpt2", "weights": "bf16", "questions": 1, "n": 64}


def _milliseconds(prefix: str = "ours", **wanted: Any) -> Callable[[list[Record]], float | None]:
    def value(records: list[Record]) -> float | None:
        best = _best(records, prefix, **wanted)
        return None if best is None else best / 1e3

    return value


def _times_faster(baseline: str) -> Callable[[list[Record]], float | None]:
    def value(records: list[Record]) -> float | None:
        cell = _GPT2 | {"with_reward": True, "beam": ""}
        ours, theirs = _best(records, **cell), _best(records, baseline, **cell)
        return None if ours is None or theirs is None else theirs / ours

    return value


def _llama_share(records: list[Record]) -> float | None:
    found: list[float] = []
    for n in (1, 8, 16):
        cells = _times(records, kind="latent", shape="llama", weights="bf16", n=n, with_reward=True, beam="")
        shares = [r["share_of_bandwidth"] for r in cells if r["method"].startswith("ours")]
        if not shares:
            return None
        found.append(max(shares))
    return 100.0 * min(found)


_LARGE = 16384  # rows from which an op's time is that of its bytes


def _worst_copy(op: str) -> Callable[[list[Record]], float | None]:
    def value(records: list[Record]) -> float | None:
        found = [r["times_a_copy"] for r in _times(records, kind="op", method=op) if r["rows"] >= _LARGE]
        return max(found) if found else None

    return value


def _solve(select: str) -> Callable[[list[Record]], float | None]:
    return _milliseconds(kind="solve", shape="gpt2", weights="bf16", n=64, select=select)


TARGETS = (
    Target(
        "latent phase, 64 rows, noise, LatentRM, pruning (16x4)",
        "ms",
        0.9,
        True,
        _milliseconds(**_GPT2, beam="16x4"),
    ),
    Target(
        "latent phase, N=64, noise, LatentRM",
        "ms",
        0.9,
        True,
        _milliseconds(**_GPT2, with_reward=True, beam=""),
    ),
    Target(
        "latent phase, N=64, noise, no LatentRM", "ms", 0.5, True, _milliseconds(**_GPT2, with_reward=False)
    ),
    Target("times faster than HF, static cache, CUDA graph", "x", 5.0, False, _times_faster("hf graph")),
    Target("times faster than HF, eager", "x", 40.0, False, _times_faster("hf eager")),
    Target("best-of-64, end to end", "ms", 6.0, True, _solve("best_of_n")),
    Target("weighted vote of 64, end to end", "ms", 10.0, True, _solve("weighted_vote")),
    Target("Llama-3.2-1B, N <= 16: share of the copy bandwidth", "%", 70.0, False, _llama_share),
    Target("dropout_add_norm, times a copy of its bytes", "x", 1.3, True, _worst_copy("dropout_add_norm")),
    Target("next_thought, times a copy of its bytes", "x", 1.3, True, _worst_copy("next_thought")),
)
