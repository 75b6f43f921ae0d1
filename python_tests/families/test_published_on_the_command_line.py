"""`latent-ext solve --model` and `convert` on a directory in each published layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from zoo import ZOO, OnDisk, weight_file

from latent_ext_cli.app import main

# The second of GSM8K's test questions, double space included.
QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in total does it take?"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["latent-ext", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.fixture(params=ZOO)
def on_disk(request: pytest.FixtureRequest, generator: torch.Generator, tmp_path: Path) -> OnDisk:
    return ZOO[request.param](tmp_path, generator)


def base_of(on_disk: OnDisk) -> tuple[object, ...]:
    return ("--base", on_disk.load["base"]) if on_disk.load else ()


def test_solve_answers_a_question(
    on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(
        monkeypatch, "solve", QUESTION, "--model", on_disk.directory, "--n", 3, "--sampler", "noise:0.3",
        "--latent-length", 3, "--max-answer-tokens", 4, "--json", *base_of(on_disk),
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["question"] == QUESTION
    assert len(result["trajectories"]) == 3
    assert all(isinstance(trajectory["text"], str) for trajectory in result["trajectories"])


def test_a_truncated_checkpoint_is_one_line(
    on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weight_file(on_disk.directory)
    path.write_bytes(path.read_bytes()[:-100])
    assert call(monkeypatch, "solve", "7", "--model", on_disk.directory, *base_of(on_disk)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{path} is truncated" in err


def test_switches_are_given_as_name_and_value(
    generator: torch.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on_disk = ZOO["original CoLaR"](tmp_path, generator)
    how = ("--model", on_disk.directory, *base_of(on_disk), "--n", 2, "--sampler", "head", "--json")
    assert call(monkeypatch, "solve", "7", *how, "--switch", "speed=1", "--latent-length", 2) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["switches"]["speed"] == 1
    assert call(monkeypatch, "solve", "7", *how, "--switch", "speed") == 2
    assert "switch: got 'speed'; NAME=VALUE is needed" in capsys.readouterr().err


def test_convert_names_the_switches_that_keep_the_behaviour(
    generator: torch.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on_disk = ZOO["original CODI"](tmp_path, generator)
    there = tmp_path / "there"
    assert call(monkeypatch, "convert", on_disk.directory, there, "--to", "latenttts") == 2
    assert "--lossy" in capsys.readouterr().err
    assert call(monkeypatch, "convert", on_disk.directory, there, "--to", "latenttts", "--lossy") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "with --switch question=squeezed --switch end_token=excluded" in out
