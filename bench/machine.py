"""The facts that a figure is worth nothing without: processor, threads, versions, instruction level."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

import latent_ext
from latent_ext import _native


def machine_facts() -> dict[str, Any]:
    """Processor, versions and the instruction level in use."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": _native.cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "latent_ext": latent_ext.__version__,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
