"""The command line called in this process, and a LatentRM of random weights that fits the shipped model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.rewards import LatentRM, save_reward
from latent_ext.rewards.latent_rm import LatentRMModule
from latent_ext_cli.app import main


@dataclass
class Called:
    """What a call left behind."""

    code: int | str | None
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    def run(*arguments: str) -> Called:
        monkeypatch.setattr(sys, "argv", ["latent-ext", *arguments])
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Called(ended.value.code, out, err)

    return run


@pytest.fixture
def refused(call: Callable[..., Called]) -> Callable[..., str]:
    """Makes a malformed call, checks the form of its answer and returns the error line."""

    def run(*arguments: str) -> str:
        called = call(*arguments)
        assert called.code == 2
        assert called.out == ""
        assert called.err.startswith("latent-ext: error: ")
        assert called.err.count("\n") == 1
        assert "Traceback" not in called.err
        return called.err

    return run


@pytest.fixture(scope="session")
def latent_rm() -> LatentRM:
    config = GPT2Config.from_pretrained(SHIPPED_GENERATOR)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        module = LatentRMModule(GPT2Model(config))
    module.eval().requires_grad_(False)
    return LatentRM(module, "random")


@pytest.fixture(scope="session")
def latent_rm_directory(latent_rm: LatentRM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("latent_rm")
    save_reward(latent_rm, directory)
    return directory
