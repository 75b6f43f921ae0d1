"""An `OpCase` run by the CUDA kernel on the host instead of the op."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from op_cases import OpCase
from torch import Tensor


def to_array(value: Any) -> Any:
    """bfloat16 travels as uint16; the seed as a number; everything that is no tensor as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(np.uint16)
    return value.numpy()


def to_tensor(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def run_on_shim(simt: ModuleType, case: OpCase, **schedule: int) -> list[Tensor]:
    """Outputs, then written arguments, as `case.run()`. `schedule`: threads, order, rows_per_block."""
    arguments = {name: to_array(value) for name, value in case.arguments.items()}
    if "svp" in arguments:
        assert arguments.pop("svp") == 0.0  # the CPU's alone: the launcher refuses another
    if "seed" in arguments:
        arguments["seed"] = int(case.arguments["seed"])
    if case.name == "next_thought":
        del arguments["next_input"]
        thoughts = arguments.pop("thoughts")
        arguments["steps"] = 0 if thoughts is None else thoughts.shape[1]
    for name in case.written():
        if name in arguments:
            arguments[name] = arguments[name].copy()
    result = getattr(simt, case.name)(**arguments, **schedule)
    returned = () if result is None else result if isinstance(result, tuple) else (result,)
    outputs = [to_tensor(array) for array in returned]
    if case.name == "next_thought" and arguments["steps"] == 0:
        outputs.pop()
    return outputs + [to_tensor(arguments[name]) for name in case.written() if name in arguments]


def same_bits(left: list[Tensor], right: list[Tensor]) -> bool:
    """Equality that also holds for equal NaN."""
    unsigned = {torch.bfloat16: torch.int16, torch.float32: torch.int32}

    def bits(tensor: Tensor) -> Tensor:
        return tensor.view(unsigned.get(tensor.dtype, tensor.dtype))

    return len(left) == len(right) and all(
        torch.equal(bits(a), bits(b)) for a, b in zip(left, right, strict=True)
    )
