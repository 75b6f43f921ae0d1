"""The thread team of the native engine: in step, and harmless to the process around it.

What must not disturb other tests (fork, signals, exit) runs in a process of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from latent_ext import _native

THREADS = (1, 2, 3, 8)
PATIENCE_S = 120  # far beyond what any of these takes, so that only a hang is cut off


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from latent_ext import _library, _native\n" + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("threads", THREADS)
def test_ranks_stay_in_step_and_failures_reach_the_caller(threads: int) -> None:
    assert _native.team_selftest(threads, 256) is None


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0)])
def test_fewer_than_one_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        _native.team_selftest(*arguments)


def test_several_python_threads_run_teams_at_once() -> None:
    with ThreadPoolExecutor(max_workers=4) as callers:
        results = list(callers.map(lambda threads: _native.team_selftest(threads, 64), THREADS * 3))
    assert results == [None] * len(results)


FORK = """
import os, signal
def forked(then):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if then() else 1)
        finally:
            os._exit(2)
    return child

def succeeded(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def works():
    return all(_native.team_selftest(threads, 64) is None for threads in (1, 2, 3, 8))
"""


def test_parent_and_children_go_on_after_a_fork() -> None:
    program = """
assert works()
children = [forked(lambda: works() and succeeded(forked(works))) for _ in range(2)]
assert works()
assert all([succeeded(child) for child in children])
"""
    result = run_program(FORK + program)
    assert result.returncode == 0, result.stderr


def test_a_fork_while_teams_are_at_work_leaves_both_sides_working() -> None:
    program = """
import threading
stop = threading.Event()
def work():
    while not stop.is_set():
        assert _native.team_selftest(3, 16) is None
busy = [threading.Thread(target=work) for _ in range(2)]
for thread in busy:
    thread.start()
for _ in range(8):
    assert succeeded(forked(works))
stop.set()
for thread in busy:
    thread.join()
assert works()
"""
    result = run_program(FORK + program)
    assert result.returncode == 0, result.stderr


def test_ctrl_c_interrupts_a_loop_of_teams() -> None:
    # A shell that starts the tests in the background has them, and what they start, ignore the signal.
    program = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
_native.team_selftest(3, 16)
try:
    print("looping", flush=True)
    while True:
        _native.team_selftest(3, 16)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    command = [sys.executable, "-c", "from latent_ext import _library, _native\n" + program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "looping\n"
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert output == "interrupted\n"
    assert process.returncode == 0


def test_the_process_may_end_right_after_a_call() -> None:
    result = run_program("assert _native.team_selftest(8, 16) is None")
    assert result.returncode == 0, result.stderr


def test_the_process_may_end_while_a_team_is_at_work() -> None:
    # One call that outlasts the process: Python itself ends a daemon thread that comes back to a finalised interpreter.
    program = """
import threading, time
assert _native.team_selftest(4, 16) is None
threading.Thread(target=_native.team_selftest, args=(4, 10**9), daemon=True).start()
time.sleep(0.5)
"""
    result = run_program(program)
    assert result.returncode == 0, result.stderr
