"""`latent-ext annotate` in a process of its own, killed with SIGKILL wherever it happens to be."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from latent_ext.training.shards import merge, read_labels

QUESTIONS, PART = 120, 3


def start(directory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "latent_ext_cli", "annotate", str(directory)]
    command += ["--generate", str(QUESTIONS), "--n", "3", "--rollouts", "2", "--part-size", str(PART)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def written(directory: Path) -> int:
    path = directory / "index.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_after_more(directory: Path, rng: random.Random) -> int:
    """Starts, waits until something more is written and a random moment longer, kills; questions there then."""
    process, before = start(directory), written(directory)
    while written(directory) == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    return written(directory)


@pytest.mark.slow
def test_three_kills_and_a_torn_line_lose_and_double_nothing(tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0

    left = [kill_after_more(killed, rng) for _ in range(3)]
    assert left == sorted(left)
    assert left[0] > 0
    assert left[-1] < QUESTIONS, "the kills came too late to interrupt anything"
    with (killed / "index.jsonl").open("ab") as index:
        index.write(b'{"place": 5')  # what a crash of the machine can leave
    (killed / "part-00000099.safetensors.tmp").write_bytes(b"half a part")
    assert start(killed).wait() == 0

    expected = {question.id: question for question in read_labels(whole)}
    found = {question.id: question for question in read_labels(killed)}
    assert list(found) == list(expected)
    assert len(found) == QUESTIONS == written(killed)
    for name, question in found.items():
        assert torch.equal(question.thoughts, expected[name].thoughts)
        assert torch.equal(question.counts, expected[name].counts)
        assert question.answers == expected[name].answers

    first, second = merge(whole, 8), merge(killed, 8)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert len(names) == 2 + -(-QUESTIONS // 8)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name

    attempts = [json.loads(line) for line in (killed / "attempts.jsonl").read_text().splitlines()]
    assert sum(attempt["event"] == "started" for attempt in attempts) == 4
