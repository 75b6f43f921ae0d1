"""The check that CI runs on transformers 4.52.4, on the release at hand."""

from __future__ import annotations

import minimal_class
import pytest


def test_the_smallest_classes_of_latenttts_keep_their_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    minimal_class.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 4 * 6 + 1
    assert all(line.startswith("ok ") for line in lines)
