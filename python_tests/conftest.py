"""What every test shares: one thread, fresh random inputs whose seed is printed, and the CPU levels."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator

import pytest
import torch

SEED_VARIABLE = "LATENT_EXT_TEST_SEED"

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RUN_SEED] = int(os.environ.get(SEED_VARIABLE) or secrets.randbits(32))
    # The workers of pytest-xdist inherit it, so that they share the seed that the header prints.
    os.environ[SEED_VARIABLE] = str(config.stash[_RUN_SEED])


def pytest_report_header(config: pytest.Config) -> str:
    return f"random inputs: {SEED_VARIABLE}={config.stash[_RUN_SEED]} repeats this run"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        report.sections.append(("random inputs", f"{SEED_VARIABLE}={item.config.stash[_RUN_SEED]}"))


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """Fresh inputs: other ones at every run and for every test, unless the variable fixes the run."""
    name = zlib.crc32(request.node.nodeid.encode())
    return torch.Generator().manual_seed(request.config.stash[_RUN_SEED] << 32 | name)


@pytest.fixture
def restored_capability() -> Iterator[None]:
    """Brings the CPU level back to what it was before the test."""
    import latent_ext._native as _native

    before = _native.cpu_capability()
    yield
    _native.set_cpu_capability(before)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Brings the number of threads back to what it was before the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


_RUN_SEED = pytest.StashKey[int]()
