"""Latent phase, `solve` and ops on a CUDA device, against Hugging Face and the device's own copy bandwidth.

Every result is checked before its time is printed. Cells are in order of importance and each is written to
OUT/gpu.json as it is finished; what does not fit into the time is left out and named.

    python bench/gpu.py --seconds 200
    python bench/gpu.py --seconds 60 --only gpt2/bf16
    python bench/gpu.py --trial          # a tiny shape, and the CPU where there is no device: tries the program
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_cells.cells import LatentCell, latent_records, op_records, solve_records
from gpu_cells.setting import Setting, build, forget
from gpu_cells.table import readable
from gpu_cells.timing import copy_bandwidth
from machine import machine_facts
from results import Results

from latent_ext.cli.strict_json import strict_json
from latent_ext.engine.cuda_rungs import rung_report

OUT = Path(__file__).parent / "results"
Record = dict[str, Any]
_BOTH = ("hf eager", "hf graph")
_HELD = 3  # settings in the device's memory


@dataclass(frozen=True)
class Part:
    """Cells of one setting.

    Attributes:
        name: shape/format.
        until: share of the time at which its last cell may begin.
        latent: cells, each with its baselines.
        selects: of best-of-64 end to end.
        ops: (rows, hidden) of the ops.
    """

    name: str
    until: float
    latent: tuple[tuple[LatentCell, tuple[str, ...]], ...]
    selects: tuple[str, ...] = ()
    ops: tuple[tuple[int, int], ...] = ()


def trial_parts() -> tuple[Part, ...]:
    """A few small cells, to try the program."""
    small = ((LatentCell(2, 3), ("hf eager",)), (LatentCell(1, 16, beam="4x4"), ()))
    return (
        Part("tiny_gpt2/bf16", 1.0, small, ("best_of_n",), ((128, 96),)),
        Part("tiny_llama/fp32", 1.0, small, ("weighted_vote",), ((128, 96),)),
    )


def parts(small: str = "gpt2", large: str = "llama") -> tuple[Part, ...]:
    """All cells, most important first."""
    one, eight, sixteen, most = (LatentCell(1, n) for n in (1, 8, 16, 64))
    many = LatentCell(4, 64)
    unscored = LatentCell(1, 64, with_reward=False)
    wide, narrow = LatentCell(1, 64, beam="16x4"), LatentCell(1, 16, beam="4x4")
    both = ("best_of_n", "weighted_vote")
    large_ops = ((65536, 768), (16384, 2048))
    return (
        Part(f"{small}/bf16", 0.25, ((most, _BOTH), (unscored, ("hf graph",)), (wide, ())), both, large_ops),
        Part(f"{large}/bf16", 0.45, ((sixteen, _BOTH), (one, _BOTH), (eight, ("hf graph",)))),
        Part(f"{small}/bf16", 0.62, ((narrow, ()), (one, _BOTH), (eight, _BOTH), (many, _BOTH))),
        Part(
            f"{small}/fp32",
            0.78,
            ((most, _BOTH), (one, _BOTH), (many, _BOTH), (wide, ())),
            ("best_of_n",),
            large_ops,
        ),
        Part(f"{large}/bf16", 0.86, ((most, ("hf graph",)), (many, ("hf graph",)))),
        Part(f"{small}/bf16", 0.90, ((most, ("hf compile",)),)),
        Part(f"{large}/fp32", 0.97, ((eight, ("hf graph",)), (most, ("hf graph",)), (one, ()), (many, ()))),
        Part(f"{small}/fp32", 1.0, ((eight, _BOTH), (unscored, ("hf graph",)), (narrow, ()))),
        Part(f"{large}/bf16", 1.0, ((LatentCell(1, 16, with_reward=False), ()), (wide, ()))),
    )


def records_of(
    part: Part, setting: Setting, device: str, bandwidth: float, stop: float, end: float
) -> Iterator[Record]:
    """The records of a part; cells that would begin after `stop` are named instead. None takes longer than to `end`."""
    rungs = [choice.name for choice in rung_report(device) if choice.usable] or ["graph"]
    # A cell for "hf compile" alone: ours is in an earlier part.
    work: list[tuple[str, Iterator[Record]]] = []
    for cell, baselines in part.latent:
        own = [] if baselines == ("hf compile",) else rungs
        name = f"{part.name} {cell.questions}x{cell.n}{' ' + cell.beam if cell.beam else ''}"
        work.append((name, latent_records(setting, cell, own, bandwidth, end, baselines=baselines)))
    if part.selects:
        ways = [("native", rung) for rung in rungs] if device == "cuda" else [("modules", "")]
        work.append((f"{part.name} solve", solve_records(setting, 64, part.selects, ways, end)))
    for rows, hidden in part.ops:
        where = setting.device
        work.append(
            (f"{part.name} ops {rows}x{hidden}", op_records(where, rows, hidden, setting.weights, end))
        )
    for name, records in work:
        if time.monotonic() > stop:
            yield {"kind": "left_out", "what": name}
            continue
        yield from records


def device_facts(device: str) -> Record:
    """What a figure is worth nothing without."""
    facts: Record = {"kind": "machine", **machine_facts(), "device": device, "cuda": torch.version.cuda}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "device": properties.name,
            "capability_cuda": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    place = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
    megabytes = 1024 if device == "cuda" else 8
    facts["copy_gigabytes_per_s"] = round(copy_bandwidth(place, megabytes) / 1e9, 1)
    facts["rungs"] = {choice.name: choice.why for choice in rung_report(device)}
    return facts


def run(results: Results, device: str, seconds: float, chosen: tuple[Part, ...]) -> bool:
    """Runs parts until time is up; whether all of ours was right."""
    start = time.monotonic()
    right = True

    def add(record: Record) -> None:
        results.add(json.loads(strict_json(record)))

    facts = device_facts(device)
    add(facts)
    bandwidth = facts["copy_gigabytes_per_s"] * 1e9
    settings: dict[str, Setting] = {}  # the latest few: two parts of one setting need not be neighbours
    for part in chosen:
        stop = start + part.until * seconds
        if time.monotonic() > stop:
            add({"kind": "left_out", "what": part.name})
            continue
        try:
            setting = settings.pop(part.name, None)
            while setting is None and len(settings) >= _HELD:
                del settings[next(iter(settings))]
                forget()
            setting = settings[part.name] = setting or build(*part.name.split("/"), device)
            for record in records_of(part, setting, device, bandwidth, stop, start + seconds):
                add(record)
                failed = "failure" in record
                right &= not (failed and not str(record.get("method", "")).startswith("hf"))
                shown = record.get("failure") or f"{record.get('microseconds', 0.0):.0f} us"
                print(f"{part.name} {record.get('method', record.get('what', ''))}: {shown}", file=sys.stderr)
        except Exception as error:  # a part that cannot be built does not take the others with it
            right = False
            add({"kind": "failure", "what": part.name, "failure": f"{type(error).__name__}: {error}"[:300]})
    return right


def main() -> int:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--out", type=Path, default=OUT, help="folder of gpu.json and gpu.txt")
    reader.add_argument("--seconds", type=float, default=240.0, help="time for all cells")
    reader.add_argument("--only", default="", help="parts whose name begins so, such as llama/bf16")
    reader.add_argument("--append", action="store_true", help="keep the records that OUT/gpu.json holds")
    reader.add_argument(
        "--trial", action="store_true", help="tiny shapes, on the CPU where there is no device"
    )
    asked = reader.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not asked.trial:
        print("bench/gpu.py: this torch sees no CUDA device", file=sys.stderr)
        return 1
    torch.set_grad_enabled(False)
    chosen = trial_parts() if asked.trial else parts()
    chosen = tuple(part for part in chosen if part.name.startswith(asked.only))
    results = Results(asked.out / "gpu.json", resume=asked.append)
    right = run(results, device, asked.seconds, chosen)
    text = readable(results.records)
    (asked.out / "gpu.txt").write_text(text, encoding="utf-8")
    print(text)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
