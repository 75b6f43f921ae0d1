"""Errors of Python functions, told to who typed a command."""

from __future__ import annotations

import pytest

from latent_ext_cli.wording import as_typed

OPTIONS = {
    "n": "--n",
    "top_p": "--top-p",
    "select": "--select",
    "temperature": "--temperature",
    "set": "--set",
}


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("top_p: got 0.0; a number in (0, 1] is needed", "--top-p: got 0.0; a number in (0, 1] is needed"),
        ("n: got 3 with select='beam'", "--n: got 3 with --select beam"),
        ("give temperature=, or select='majority'", "give --temperature, or --select majority"),
        ("with temperature=0.5, which", "with --temperature 0.5, which"),
        ("with temperature=0.", "with --temperature 0."),
    ],
)
def test_an_argument_is_told_as_its_option(message: str, typed: str) -> None:
    assert as_typed(message, OPTIONS) == typed


@pytest.mark.parametrize(
    "message",
    [
        "arm noise: n: got 0",
        "set_aside: n holds",
        "got 'n=16'; there is none",
        "arms.noise.n=16 leads nowhere",
        "pads='visible' allows no dropout",
        "min=3",
    ],
)
def test_what_is_no_argument_stays(message: str) -> None:
    assert as_typed(message, OPTIONS) == message


def test_a_command_without_options_changes_nothing() -> None:
    assert as_typed("n: got 3", {}) == "n: got 3"
