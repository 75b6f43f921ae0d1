"""`latent-ext evaluate` in a process of its own, killed with SIGKILL wherever it happens to be."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from python_tests.evaluation.runs import plain_recipe, results, run, small_recipe

QUESTIONS = 20
DATASETS = [{"name": "five", "shipped": "test_5", "limit": QUESTIONS}]
TOTAL = QUESTIONS * 4 * 2


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "latent_ext_cli",
        "evaluate",
        str(recipe),
        "--out",
        str(out),
        "--batch",
        "2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def written(out: Path) -> int:
    path = out / "ledger.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_two_kills_and_a_torn_line_lose_and_double_nothing(tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    whole, killed, recipe = tmp_path / "whole", tmp_path / "killed", tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(plain_recipe(datasets=DATASETS)))
    for _ in range(2):
        process, before = start(recipe, killed), written(killed)
        while written(killed) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert before < written(killed) < TOTAL
    with (killed / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"dataset":"five","arm":"gr')  # what a crash of the machine can leave
    left = written(killed)
    assert run(killed, small_recipe(datasets=DATASETS)).finished == TOTAL - left
    run(whole, small_recipe(datasets=DATASETS), batch=32)
    assert results(killed) == results(whole)
