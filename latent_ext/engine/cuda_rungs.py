"""The three ways in which a CUDA device runs the latent phase, and which of them is taken.

"persistent" is one cooperative launch of ``latent_rollout``, "stream" the same op with one launch per phase, "graph" a
CUDA graph of the small fused ops and cuBLAS products.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

Rung = Literal["persistent", "stream", "graph"]
# Fastest first.
RUNGS: tuple[str, ...] = get_args(Rung)
VARIABLE = "LATENT_EXT_RUNG"
# The rungs whose products are our own: a trajectory's thoughts and scores are the same bits whatever runs beside it.
BIT_EQUAL = ("persistent", "stream")

SMALL_OPS = (
    "dropout_add_norm",
    "next_thought",
    "prefix_decode_attention",
    "score_and_prune",
    "next_token",
)
_WHAT = {
    "persistent": "one cooperative launch for the whole latent phase; bit-equal across N, chunks and pruning",
    "stream": "one launch per phase of every layer; bit-equal across N, chunks and pruning",
    "graph": "CUDA graph of fused ops and cuBLAS products; equal random numbers, results to rounding",
}
_COOPERATIVE_LAUNCH = 95  # CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH


@dataclass(frozen=True)
class RungChoice:
    """A rung's name, whether the device can take it, and the sentence that says why or why not."""

    name: str
    usable: bool
    why: str


def rung_report(device: torch.device | str) -> list[RungChoice]:
    """Every rung, fastest first, and whether `device` can take it."""
    place = torch.device(device)
    report = []
    for name in RUNGS:
        reason = _why_not(name, place)
        report.append(RungChoice(name, reason is None, _WHAT[name] if reason is None else reason))
    return report


def asked_rung(rung: str | None) -> str:
    """`rung`, else what the variable LATENT_EXT_RUNG asks for, else "auto".

    Raises:
        ValueError: for a name that is no rung, saying where it came from.
    """
    name, source = (rung, "rung") if rung is not None else (os.environ.get(VARIABLE) or "auto", VARIABLE)
    if name != "auto" and name not in RUNGS:
        raise ValueError(f"{source}: got {name!r}; allowed are auto, {', '.join(RUNGS)}")
    return name


def choose_rung(rung: str | None, device: torch.device | str) -> RungChoice:
    """The rung that `device` will take.

    Args:
        rung: "auto", "persistent", "stream" or "graph"; None: as `asked_rung`.
        device: a CUDA device.

    Raises:
        ValueError: as `asked_rung`.
        RuntimeError: if the device cannot take the rung that is asked for.
    """
    name = asked_rung(rung)
    for choice in rung_report(device):
        if name == "auto" and choice.usable:
            return choice
        if name == choice.name:
            if choice.usable:
                return choice
            raise RuntimeError(f"rung: {name!r} cannot run on {device}: {choice.why}")
    raise RuntimeError(f"rung: none of {', '.join(RUNGS)} can run on {device}")


def _why_not(name: str, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "rungs are of CUDA devices"
    wanted = SMALL_OPS if name == "graph" else (*SMALL_OPS, "latent_rollout")
    missing = [op for op in wanted if not has_kernel(op, device.type)]
    if missing:
        return f"no cuda kernel for {', '.join(missing)}"
    if name == "persistent" and not _launches_cooperatively(device):
        return "the device or its driver has no cooperative launch"
    return None


def has_kernel(op: str, device_type: str) -> bool:
    """Whether `op` of ``torch.ops.latent_ext`` has a kernel for this type of device."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"latent_ext::{op}", key)


def _launches_cooperatively(device: torch.device) -> bool:
    """What the driver says; torch's own device properties do not tell."""
    torch.cuda.init()
    value, ordinal = ctypes.c_int(0), ctypes.c_int(0)
    index = torch.cuda.current_device() if device.index is None else device.index
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    if driver.cuDeviceGet(ctypes.byref(ordinal), ctypes.c_int(index)) != 0:
        return False
    failed = driver.cuDeviceGetAttribute(ctypes.byref(value), _COOPERATIVE_LAUNCH, ordinal)
    return failed == 0 and value.value == 1
