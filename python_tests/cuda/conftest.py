"""The host build of the CUDA kernels, and what is shared with python_tests/ops and python_tests/engine."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
for _room in ("engine", "ops"):
    sys.path.insert(0, str(ROOT / "python_tests" / _room))


@pytest.fixture(scope="session")
def simt() -> ModuleType:
    """`_simt`, which the build leaves in build/native/testing because it is not part of the package.

    LATENT_EXT_SIMT_FOLDER names the folder of another build, such as one with sanitizers.
    """
    folder = Path(os.environ.get("LATENT_EXT_SIMT_FOLDER", ROOT / "build" / "native" / "testing"))
    libraries = sorted(folder.glob("_simt*.so"))
    if not libraries:
        raise FileNotFoundError(f"no _simt in {folder}: build with `pip install -e . --no-build-isolation`")
    spec = importlib.util.spec_from_file_location("_simt", libraries[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
