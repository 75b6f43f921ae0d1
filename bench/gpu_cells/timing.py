"""Times of device work by events, launches by the profiler, and the device's own copy bandwidth."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP = 3
MOST_REPEATS = 50
FEWEST_REPEATS = 5


@dataclass(frozen=True)
class Timed:
    """Median and spread of one piece of work.

    Attributes:
        microseconds: median.
        fastest, slowest: microseconds.
        repeats: how many were timed.
    """

    microseconds: float
    fastest: float
    slowest: float
    repeats: int

    @classmethod
    def of(cls, values: list[float]) -> Timed:
        return cls(statistics.median(values), min(values), max(values), len(values))


def device_time(work: Callable[[], object], seconds: float, device: torch.device) -> Timed:
    """Time between two events around `work`, host gaps included: what a caller waits for.

    Args:
        work: queues the work on the current stream.
        seconds: budget; at least `FEWEST_REPEATS` are timed.
        device: on a CPU the host's clock takes the place of events.
    """
    for _ in range(WARM_UP):
        work()
    values: list[float] = []
    stop = time.perf_counter() + seconds
    while len(values) < FEWEST_REPEATS or (len(values) < MOST_REPEATS and time.perf_counter() < stop):
        values.append(_once(work, device))
    return Timed.of(values)


def host_time(work: Callable[[], object], seconds: float, device: torch.device) -> Timed:
    """Wall time of a call that gives its result to the host."""

    def once() -> float:
        settle(device)
        start = time.perf_counter()
        work()
        settle(device)
        return 1e6 * (time.perf_counter() - start)

    for _ in range(WARM_UP):
        work()
    values: list[float] = []
    stop = time.perf_counter() + seconds
    while len(values) < FEWEST_REPEATS or (len(values) < MOST_REPEATS and time.perf_counter() < stop):
        values.append(once())
    return Timed.of(values)


def _once(work: Callable[[], object], device: torch.device) -> float:
    settle(device)
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return 1e6 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end)


def settle(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def launches(work: Callable[[], object], device: torch.device) -> dict[str, int] | None:
    """Kernels that run on the device, and calls by which the host starts work; None where the profiler sees nothing."""
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    settle(device)
    with torch.profiler.profile(activities=activities) as seen:
        work()
        settle(device)
    kernels = host = 0
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels += not event.name.startswith(("Memcpy", "Memset"))
        else:
            host += event.name in _HOST_LAUNCHES
    return {"kernels": kernels, "host_launches": host} if kernels else None


_HOST_LAUNCHES = frozenset(
    {
        "cudaLaunchKernel",
        "cudaLaunchKernelExC",
        "cudaLaunchCooperativeKernel",
        "cudaGraphLaunch",
        "cuLaunchKernel",
        "cuLaunchKernelEx",
        "cuLaunchCooperativeKernel",
    }
)


def copy_bandwidth(device: torch.device, megabytes: int = 1024, seconds: float = 0.5) -> float:
    """Bytes per second, read and written, of a large copy on this device, measured now."""
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    timed = device_time(lambda: target.copy_(source), seconds, device)
    return 2.0 * source.numel() / (timed.microseconds * 1e-6)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what runs longer, at the next moment at which Python runs."""

    def stop(_signal: int, _frame: Any) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
