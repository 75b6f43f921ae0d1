"""Compiles every CUDA kernel for every architecture; compares registers and spills with resource_budget.txt.

    python csrc/cuda/check_resources.py                   # every architecture of a release
    python csrc/cuda/check_resources.py --arch 90 --op next_token

Prints one line per kernel and architecture; exits with 1 if a budget is exceeded, with 2 if something does
not compile.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BUDGET = FOLDER / "resource_budget.txt"
ARCHITECTURES = ("80", "86", "89", "90a", "100", "120")

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Use:
    """What one kernel takes on one architecture: registers per thread, bytes."""

    kernel: str
    architecture: str
    registers: int
    spills: int
    shared: int


def readable(symbol: str) -> str:
    """``next_thought_kernel<float>`` from a mangled name of namespace latent_ext."""
    found = re.match(r"_ZN10latent_ext(\d+)", symbol)
    if found is None:
        return symbol
    end = found.end() + int(found[1])
    name, rest = symbol[found.end() : end], symbol[end:]
    storage = "float" if rest.startswith("IfE") else "BFloat16" if rest.startswith("INS_8BFloat16E") else None
    return name if storage is None else f"{name}<{storage}>"


def parse(log: str) -> list[Use]:
    """The uses in the output of ``-Xptxas -v``; spills of functions that a kernel calls count as its own."""
    uses: list[Use] = []
    symbol = architecture = ""
    spills = 0
    for line in log.splitlines():
        if found := _ENTRY.search(line):
            symbol, architecture, spills = found[1], found[2], 0
        elif found := _SPILLS.search(line):
            if symbol:
                spills = int(found[2]) + int(found[3])
            elif uses:
                called = int(found[2]) + int(found[3])
                uses[-1] = replace(uses[-1], spills=uses[-1].spills + called)
        elif symbol and (found := _USED.search(line)):
            shared = _SHARED.search(line)
            registers = int(found[1])
            uses.append(
                Use(readable(symbol), architecture, registers, spills, int(shared[1]) if shared else 0)
            )
            symbol = ""
    return uses


def read_budget(path: Path = BUDGET) -> dict[str, tuple[int, int]]:
    """Kernel name to largest registers and largest spill bytes."""
    lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return {fields[0]: (int(fields[1]), int(fields[2])) for fields in lines if fields}


def excess(use: Use, budget: dict[str, tuple[int, int]]) -> str | None:
    """What is wrong with `use`, or None."""
    if use.kernel not in budget:
        return f"has no line in {BUDGET.name}"
    registers, spills = budget[use.kernel]
    problems = []
    if use.registers > registers:
        problems.append(f"{use.registers} registers, allowed {registers}")
    if use.spills > spills:
        problems.append(f"{use.spills} bytes spilled, allowed {spills}")
    return "; ".join(problems) or None


def operators() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.cu"))


def torch_include() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("check_resources.py needs the headers of an installed torch, and none is installed")
    return Path(spec.origin).parent / "include"


def compile_op(op: str, architectures: list[str], nvcc: str = "nvcc") -> tuple[list[Use], float]:
    """Compiles csrc/cuda/<op>.cu once for all `architectures`.

    Returns:
        The uses and the seconds it took.

    Raises:
        RuntimeError: with the compiler's output, if it does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            nvcc, "-std=c++17", "-O3", "-fmad=false", "-Xptxas", "-v", "-Xcompiler", "-fPIC",
            "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000",
            f"-I{FOLDER.parent / 'include'}", f"-I{FOLDER.parent}", f"-I{FOLDER.parent / 'cpu'}",
            "-isystem", str(torch_include()),
            *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures),
            "-c", str(FOLDER / f"{op}.cu"), "-o", str(Path(folder) / "object.o"),
        ]  # fmt: skip
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    if result.returncode != 0:
        raise RuntimeError(f"{op}.cu does not compile for {', '.join(architectures)}:\n{result.stderr}")
    return parse(result.stdout + result.stderr), seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), help="such as 80 90a; default: all")
    parser.add_argument("--op", nargs="+", default=operators(), choices=operators())
    parser.add_argument("--jobs", type=int, default=2, help="compilations at a time")
    arguments = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("nvcc is not on PATH: install the CUDA toolkit", file=sys.stderr)
        return 2

    budget, exceeded = read_budget(), 0
    print(f"{'kernel':42} {'sm':>5} {'registers':>9} {'spilled':>8} {'static shared':>13}  verdict")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = {op: pool.submit(compile_op, op, arguments.arch, nvcc) for op in arguments.op}
        for op, job in jobs.items():
            try:
                uses, seconds = job.result()
            except RuntimeError as error:
                print(error, file=sys.stderr)
                return 2
            for use in sorted(uses, key=lambda use: (use.kernel, arguments.arch.index(use.architecture))):
                problem = excess(use, budget)
                exceeded += problem is not None
                print(
                    f"{use.kernel:42} {use.architecture:>5} {use.registers:9} {use.spills:8} "
                    f"{use.shared:13}  {problem or 'ok'}"
                )
            print(f"# {op}.cu: {seconds:.1f} s for {len(arguments.arch)} architectures")
    return 1 if exceeded else 0


if __name__ == "__main__":
    raise SystemExit(main())
