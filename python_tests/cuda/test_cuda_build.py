"""Every .cu compiles and stays within its budget of registers and spills, and runs clean under sanitizers."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from op_cases import CPU_ONLY_OPS, OP_NAMES, PACKED_OPS

ROOT = Path(__file__).resolve().parents[2]
CUDA = ROOT / "csrc" / "cuda"
ARCHITECTURE = "90"
CUDA_OPS = sorted({*OP_NAMES, *PACKED_OPS} - {*CPU_ONLY_OPS})

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on PATH: no CUDA toolkit here"
)


@pytest.fixture(scope="module")
def check_resources() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_resources", CUDA / "check_resources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_resources"] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("op", CUDA_OPS)
def test_compiles_within_its_budget(check_resources: ModuleType, op: str) -> None:
    uses, _ = check_resources.compile_op(op, [ARCHITECTURE])
    budget = check_resources.read_budget()
    assert uses, "the compiler named no kernel"
    for use in uses:
        assert check_resources.excess(use, budget) is None, use


def test_every_op_has_a_cuda_source(check_resources: ModuleType) -> None:
    assert check_resources.operators() == CUDA_OPS


def test_an_excess_over_the_budget_is_named(check_resources: ModuleType) -> None:
    log = """\
ptxas info    : Compiling entry function '_ZN10latent_ext19next_thought_kernelIfEEvNS_20NextThoughtArgumentsIT_EE' for 'sm_90a'
ptxas info    : Function properties for _ZN10latent_ext19next_thought_kernelIfEEvNS_20NextThoughtArgumentsIT_EE
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 43 registers, used 1 barriers, 128 bytes smem
ptxas info    : Function properties for _ZN10latent_ext6calledEv
    0 bytes stack frame, 2 bytes spill stores, 2 bytes spill loads
ptxas info    : Compiling entry function '_ZN10latent_ext18merge_token_kernelENS_19MergeTokenArgumentsE' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers
"""  # noqa: E501
    thought, merge = check_resources.parse(log)
    assert thought == check_resources.Use("next_thought_kernel<float>", "90a", 43, 24, 128)
    assert merge == check_resources.Use("merge_token_kernel", "90a", 24, 0, 0)
    budget = {"next_thought_kernel<float>": (40, 0)}
    assert check_resources.excess(thought, budget) == "43 registers, allowed 40; 24 bytes spilled, allowed 0"
    assert "no line" in check_resources.excess(merge, budget)


@pytest.mark.slow
def test_kernels_run_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    script = ROOT / "csrc" / "testing" / "run_sanitized.sh"
    result = subprocess.run([str(script), str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
