"""The SIMT shim finds the mistakes it exists to find."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

ORDERS = range(16)
VALUES = np.arange(256, dtype=np.float32)


def test_a_missing_barrier_shows_as_results_that_depend_on_the_order(simt: ModuleType) -> None:
    results = [simt.reverse(VALUES, False, order) for order in ORDERS]
    assert any(np.isnan(result).any() for result in results), "no thread read poisoned shared memory"
    assert len({result.tobytes() for result in results}) > 1


def test_with_its_barrier_the_same_kernel_is_right_in_every_order(simt: ModuleType) -> None:
    for order in ORDERS:
        assert np.array_equal(simt.reverse(VALUES, True, order), VALUES[::-1])


def test_a_missing_wait_for_the_grid_shows_as_results_that_depend_on_the_order(simt: ModuleType) -> None:
    results = [simt.reverse_blocks(VALUES, 4, False, order) for order in ORDERS]
    assert any(np.isnan(result).any() for result in results), "no block read what another had not written"
    assert len({result.tobytes() for result in results}) > 1


def test_with_its_wait_for_the_grid_the_same_kernel_is_right_in_every_order(simt: ModuleType) -> None:
    for order in ORDERS:
        expected = VALUES.reshape(4, 64)[::-1].reshape(-1)
        assert np.array_equal(simt.reverse_blocks(VALUES, 4, True, order), expected)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("absent_block", r"grid barrier mismatch: .*block 0 returned"),
        ("half_block_waits", r"barrier mismatch: .*32 threads wait at the grid barrier"),
        ("early_return", r"barrier mismatch: .*32 threads returned"),
        (
            "two_barriers",
            r"barrier mismatch: 32 threads wait at the barrier .*; 32 threads wait at the barrier",
        ),
        (
            "half_warp_shuffle",
            r"barrier mismatch: .*32 threads wait at the warp operation .*broken_kernels.cuh:\d+",
        ),
        ("narrow_mask", r"reads a lane outside its mask"),
    ],
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_mismatch_is_an_error_that_says_who_waits_where(
    simt: ModuleType, kernel: str, message: str, order: int
) -> None:
    with pytest.raises(RuntimeError, match=message):
        simt.run_broken(kernel, 64, order)


def test_a_kernel_runs_again_after_another_failed(simt: ModuleType) -> None:
    with pytest.raises(RuntimeError):
        simt.run_broken("early_return", 64, 0)
    assert np.array_equal(simt.reverse(VALUES, True, 0), VALUES[::-1])


@pytest.mark.parametrize("threads", [0, 33, 1056])
def test_a_block_size_that_is_no_multiple_of_a_warp_is_an_error(simt: ModuleType, threads: int) -> None:
    with pytest.raises(RuntimeError, match=f"got {threads}"):
        simt.run_broken("early_return", threads, 0)
