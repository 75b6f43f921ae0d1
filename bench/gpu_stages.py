"""`make gpu`: build, tests, sanitizers and benchmarks on a machine with a CUDA device, and no network.

Each stage runs in a process of its own within its share of the time, and the next one runs whatever became of it. What
they found is in OUT/gpu.json and, readable, in OUT/gpu.txt; their full output in OUT/gpu_<stage>.log. The exit code is 0
only if every stage that could run went well.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu_cells.table import readable
from results import Results

ROOT = Path(__file__).resolve().parents[1]
TOOLKIT = Path("/usr/local/cuda/bin")
# What a stage may take of the whole, and what is kept for the benchmarks, in seconds.
BUILD, TESTS, SANITIZER, BENCH_AT_LEAST = 240.0, 150.0, 45.0, 60.0
_FACTS = "import torch; t = torch.cuda; print(*(t.get_device_capability() if t.is_available() else ()))"


@dataclass(frozen=True)
class Outcome:
    """What became of a stage: "passed", "failed", "out of time" or "skipped", and its last words."""

    outcome: str
    why: str


def capability(python: str) -> tuple[int, int] | None:
    """Compute capability of the first device that `python`'s torch sees; None without one."""
    asked = subprocess.run([python, "-c", _FACTS], capture_output=True, text=True)
    said = asked.stdout.split()
    return (int(said[0]), int(said[1])) if len(said) == 2 and asked.returncode == 0 else None


def architecture(found: tuple[int, int]) -> str:
    """CMake's name for the device alone; Hopper's own instructions need the "a"."""
    major, minor = found
    return f"{major}{minor}{'a' if major == 9 else ''}-real"


def environment(found: tuple[int, int]) -> dict[str, str]:
    """Of every stage: this tree's package, this device's architecture, no package index."""
    own = dict(os.environ)
    own.pop("CMAKE_CUDA_ARCHITECTURES", None)
    paths = [str(ROOT), *filter(None, [own.get("PYTHONPATH")])]
    tools = [own.get("PATH", ""), str(TOOLKIT)]
    return own | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join(tools),
        "LATENT_EXT_CUDA": "1",
        "LATENT_EXT_CUDA_ARCHS": architecture(found),
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_stage(command: Sequence[str], log: Path, seconds: float, own: dict[str, str]) -> Outcome:
    """Runs a command into a log; what is not done in time is interrupted, and killed ten seconds later."""
    with log.open("a", encoding="utf-8") as into:
        into.write(f"$ {' '.join(command)}\n")
        into.flush()
        began = subprocess.Popen(
            list(command), cwd=ROOT, env=own, stdout=into, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = began.wait(timeout=max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            for number, patience in ((signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)):
                try:
                    os.killpg(began.pid, number)
                    began.wait(timeout=patience)
                    break
                except (subprocess.TimeoutExpired, ProcessLookupError):
                    continue
            return Outcome("out of time", last_words(log))
    return Outcome("passed" if code == 0 else "failed", last_words(log))


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((re.sub(r"^=+ | =+$", "", line) for line in reversed(lines) if line.strip("=- ")), "")[:160]


class Stages:
    """The stages in turn, each recorded as it ends."""

    def __init__(self, python: str, out: Path, seconds: float, own: dict[str, str]) -> None:
        self.python, self.out, self.own = python, out, own
        self._end = time.monotonic() + seconds
        self.failed = False
        out.mkdir(parents=True, exist_ok=True)
        for name in ("gpu.json", "gpu.txt"):
            (out / name).unlink(missing_ok=True)

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def run(self, name: str, commands: Sequence[Sequence[str]], seconds: float) -> Outcome:
        """Tries the commands until one passes; records the stage."""
        start = time.monotonic()
        log = self.out / f"gpu_{name}.log"
        log.unlink(missing_ok=True)
        print(f"make gpu: {name} (at most {seconds:.0f} s)", flush=True)
        for command in commands:
            found = run_stage(command, log, seconds - (time.monotonic() - start), self.own)
            if found.outcome != "failed":
                break
        self.record(name, found, time.monotonic() - start)
        return found

    def record(self, name: str, found: Outcome, seconds: float) -> None:
        self.failed |= found.outcome in ("failed", "out of time")
        results = Results(self.out / "gpu.json", resume=True)
        results.add(
            {"kind": "stage", "stage": name, "outcome": found.outcome, "seconds": seconds, "why": found.why}
        )
        print(f"make gpu: {name}: {found.outcome}: {found.why}", flush=True)


def run_all(stages: Stages) -> None:
    """All stages; without a build the later ones say themselves what they lack."""
    python = stages.python
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "--no-index", "--no-build-isolation", "--no-deps", "--editable", "."]
    # Where pip may not install, the libraries beside their sources are enough: every stage looks there.
    in_place = [python, "setup.py", "build_ext", "--inplace"]
    stages.run("build", [build, in_place], min(BUILD, stages.left - BENCH_AT_LEAST))
    tests = [python, "-m", "pytest", "python_tests/cuda", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    kept = BENCH_AT_LEAST + 2 * SANITIZER
    stages.run("tests", [[*tests, "--durations=5"]], min(TESTS, stages.left - kept))
    sanitizer = shutil.which("compute-sanitizer", path=stages.own["PATH"])
    for tool in ("memcheck", "racecheck"):
        if sanitizer is None:
            stages.record(tool, Outcome("skipped", "no compute-sanitizer on this machine"), 0.0)
            continue
        calls = [python, "python_tests/cuda/sanitized_calls.py"]
        checked = [sanitizer, "--tool", tool, "--error-exitcode", "9", *calls]
        stages.run(tool, [checked], min(SANITIZER, stages.left - BENCH_AT_LEAST))
    seconds = max(BENCH_AT_LEAST, stages.left - 15.0)
    bench = [python, "bench/gpu.py", "--append", "--out", str(stages.out), "--seconds", f"{seconds:.0f}"]
    stages.run("bench", [bench], seconds + 20.0)


def main() -> int:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--python", default=sys.executable, help="the interpreter whose torch has CUDA")
    reader.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    reader.add_argument("--seconds", type=float, default=460.0, help="time for all stages")
    asked = reader.parse_args()
    found = capability(asked.python)
    if found is None:
        print("make gpu: this torch sees no CUDA device", file=sys.stderr)
        return 1
    stages = Stages(asked.python, asked.out.resolve(), asked.seconds, environment(found))
    run_all(stages)
    text = readable(Results(stages.out / "gpu.json", resume=True).records)
    (stages.out / "gpu.txt").write_text(text, encoding="utf-8")
    print(text)
    return 1 if stages.failed else 0


if __name__ == "__main__":
    sys.exit(main())
