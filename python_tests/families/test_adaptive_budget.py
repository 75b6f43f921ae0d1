"""The adaptive budget in families whose rows end their thoughts by themselves: still the beginning of the fixed run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from zoo import ZOO

import latent_ext
from latent_ext.ops.tolerances import assert_close
from latent_ext.search.adaptive import rounds

# No six votes reach the first of these; the first answer that is given reaches the other.
CONFIDENCES = (0.999999, 0.51)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("engine", ["modules", "reference"])
def test_colar_draws_the_first_trajectories_of_its_fixed_run(
    generator: torch.Generator, tmp_path: Path, engine: str, confidence: float
) -> None:
    on_disk = ZOO["original CoLaR"](tmp_path, generator)
    model = latent_ext.load(on_disk.directory, **on_disk.load)
    how = {
        "sampler": "head",
        "n": 6,
        "engine": engine,
        "max_answer_tokens": 4,
        "return_thoughts": True,
        "seed": 3,
    }
    questions = ["7", "3 4"]
    fixed = latent_ext.solve(model, questions, select="majority", **how)
    adaptive = latent_ext.solve(model, questions, select="adaptive", confidence=confidence, **how)
    for got, wanted in zip(adaptive, fixed, strict=True):
        assert len(got.trajectories) in [last for _, last in rounds(6)]
        if confidence == CONFIDENCES[0]:
            assert len(got.trajectories) == 6
        for mine, other in zip(got.trajectories, wanted.trajectories, strict=False):
            assert (mine.key, mine.steps) == (other.key, other.steps)
            assert_close(mine.thoughts, other.thoughts, "latent_phase")
