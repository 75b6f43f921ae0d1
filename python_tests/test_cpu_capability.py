"""The environment variable LATENT_EXT_CPU_CAPABILITY chooses the ISA level when the library loads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from latent_ext import _native

VARIABLE = "LATENT_EXT_CPU_CAPABILITY"
PROGRAM = "import latent_ext._library; from latent_ext import _native; print(_native.cpu_capability())"


def load_with(level: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {VARIABLE: level}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("level", _native.supported_capabilities())
def test_a_supported_level_is_used(level: str) -> None:
    result = load_with(level)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == level


def test_an_empty_variable_leaves_the_widest_level() -> None:
    assert load_with("").stdout.strip() == _native.supported_capabilities()[-1]


@pytest.mark.parametrize("level", ["avx9000", "AVX2", "sse"])
def test_an_unknown_level_fails_at_import_and_names_what_is_allowed(level: str) -> None:
    result = load_with(level)
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    for word in (VARIABLE, f"'{level}'", *_native.supported_capabilities()):
        assert word in result.stderr


def test_a_level_is_refused_without_changing_the_active_one() -> None:
    before = _native.cpu_capability()
    with pytest.raises(ValueError, match=r"must be one of .*got 'neon'"):
        _native.set_cpu_capability("neon")
    assert _native.cpu_capability() == before
