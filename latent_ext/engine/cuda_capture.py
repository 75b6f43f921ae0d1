"""CUDA graphs of plain functions over static buffers; on the CPU the same functions simply run.

A captured function takes nothing and returns nothing: it reads tensors that stay where they are and writes
others, so a replay computes with whatever the buffers hold by then. It must not wait for the device, copy from
the host or depend on a value of a tensor in Python.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor


class Capture:
    """A function that is recorded when it is first called and replayed ever after.

    The first call runs the function, which also sets up what a library sets up on first use, and then records it:
    recording executes nothing, so a first call does its work once, like every later one. Replays go to the current
    stream.

    Args:
        function: without arguments and result, over tensors of `device`.
        device: where its tensors are; on a CPU every call runs the function.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        self._function()
        if self._device.type != "cuda":
            return
        with torch.cuda.device(self._device), _no_collection():
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process (a server's) may go on to use the device meanwhile.
            with torch.cuda.graph(
                graph, stream=_capture_stream(self._device), capture_error_mode="thread_local"
            ):
                self._function()
        self._graph = graph


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected meanwhile: what it frees, such as another graph, might disturb a recording."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream per device for all captures: cuBLAS keeps a workspace for every stream that it has seen."""
    if device not in _CAPTURE_STREAMS:
        _CAPTURE_STREAMS[device] = torch.cuda.Stream(device)
    return _CAPTURE_STREAMS[device]


_CAPTURE_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


_Held = TypeVar("_Held")


class Shelf(Generic[_Held]):
    """What was captured for the latest few shapes; the one that was not used for longest goes first.

    Args:
        room: how many are held. Each keeps its buffers and what its graph allocates.
    """

    def __init__(self, room: int = 8) -> None:
        self._room = room
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: Hashable, make: Callable[[], _Held]) -> _Held:
        """What is held under `key`; made where there is nothing yet."""
        if key not in self._held:
            if len(self._held) >= self._room:
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()  # a stream may still be at work in the buffers that go
                self._held.popitem(last=False)
            self._held[key] = make()
        self._held.move_to_end(key)
        return self._held[key]


class Turn:
    """Static buffers serve one stream at a time: a use that begins waits, on the device, for the one before.

    >>> with Turn(torch.device("cpu")):
    ...     pass  # fill the buffers, replay, copy the results
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ended: torch.cuda.Event | None = None

    def __enter__(self) -> None:
        if self._ended is not None:
            torch.cuda.current_stream(self._device).wait_event(self._ended)

    def __exit__(self, *_error: object) -> None:
        if self._device.type == "cuda":
            self._ended = self._ended or torch.cuda.Event()
            self._ended.record(torch.cuda.current_stream(self._device))


class HostFlag:
    """A device's bool on its way to the host, without making the host wait for it.

    Args:
        value: bool [1].
    """

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if value.is_cuda:
            self._value = torch.empty(1, dtype=torch.bool, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))
        else:
            self._value = value.clone()

    def get(self) -> bool:
        """The value; waits until the device has come to where it was asked."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._value)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy of host values on `device`, or `values` where they are there; the host does not wait for it."""
    if values.device == device or device.type != "cuda":
        return values.to(device)
    if values.is_cuda:
        return values.to(device, non_blocking=True)
    return values.pin_memory().to(device, non_blocking=True)


def bucket(size: int, step: int) -> int:
    """`size` rounded up to a multiple of `step`, at least `step`: one capture serves all sizes between."""
    return max(1, -(-size // step)) * step


def power_of_two(size: int) -> int:
    """`size` rounded up to a power of two, at least 1."""
    return 1 << max(0, size - 1).bit_length()
