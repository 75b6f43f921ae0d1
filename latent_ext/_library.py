"""Finds and loads the native libraries: importing this registers every op of ``torch.ops.latent_ext``.

``_C`` (schemas and CPU kernels) always loads. ``_C_cuda`` loads only where this torch has CUDA: it needs
libraries that a CPU-only torch does not carry.
"""

from __future__ import annotations

from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent

try:
    from latent_ext import _C as _C
    from latent_ext import _native as _native
except ImportError as error:
    if "LATENT_EXT_CPU_CAPABILITY" in str(error) or list(_PACKAGE.glob("_C.*so")):
        raise
    raise ImportError(
        "the native library of latent_ext is not built: run `pip install -e . --no-build-isolation` in its "
        "repository"
    ) from error

CUDA_LIBRARY = _PACKAGE / "_C_cuda.so"


def _load_cuda() -> bool:
    if torch.version.cuda is None or not CUDA_LIBRARY.exists():
        return False
    torch.ops.load_library(str(CUDA_LIBRARY))
    return True


cuda_loaded: bool = _load_cuda()
"""True when the CUDA kernels are registered; otherwise PyTorch refuses CUDA tensors ("no CUDA backend")."""
