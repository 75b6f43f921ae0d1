"""Devices by name, refused in one sentence where this machine does not have them."""

from __future__ import annotations

import torch


def as_device(device: str | torch.device) -> torch.device:
    """The device that is named.

    Args:
        device: "cpu", "cuda", "cuda:1", ...; or a device, as it is.

    Raises:
        ValueError: for a text that names no device, or a CUDA device that this torch does not see.
    """
    try:
        named = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: got {device!r}; allowed are cpu, cuda and cuda:N") from None
    if named.type == "cuda":
        if torch.version.cuda is None:
            raise ValueError(
                f"device: got {str(device)!r}; this torch ({torch.__version__}) is built without CUDA"
            )
        seen = torch.cuda.device_count()
        if seen == 0:
            raise ValueError(f"device: got {str(device)!r}; this torch sees no CUDA device")
        if named.index is not None and named.index >= seen:
            raise ValueError(f"device: got {str(device)!r}; allowed are cuda:0 to cuda:{seen - 1}")
    return named
