"""A report that several tests look at, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import HOSTILE, write_run

from latent_ext.evaluation.report import Written, write_report


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Of a run whose ids, tokens, questions and host are HTML."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("runs")
    run = write_run(folder / "one", identifier=HOSTILE)
    return write_report([run], folder / "page")


@pytest.fixture
def made_up_run(tmp_path: Path) -> Path:
    """A made-up run without an analysis."""
    return write_run(tmp_path / "run", analysis=False)
