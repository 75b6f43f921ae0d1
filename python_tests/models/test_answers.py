"""Numbers read from answers: equal values give equal texts, and no text is too strange."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_ext.models.answers import answer_after_marker, canonical_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18", "18"), ("+18", "18"), (" 18 ", "18"), ("18.", "18"), ("18.0", "18"), ("$18", "18"), ("018", "18"),
        ("-18", "-18"), ("1,080.50", "1080.5"), ("1,000,000", "1000000"), ("0", "0"), ("-0.00", "0"), ("0e99", "0"),
        (".5", "0.5"), ("-.50", "-0.5"), ("1e5", "100000"), ("1E+5", "100000"), ("100000", "100000"),
        ("2.5e-3", "0.0025"), ("0.0025", "0.0025"), ("120e-1", "12"),
    ],
)  # fmt: skip
def test_a_number_has_one_text(text: str, expected: str) -> None:
    assert canonical_number(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "inf",
        "-Infinity",
        "nan",
        "1.2.3",
        "1 2",
        "--1",
        "e5",
        "1e",
        "0x10",
        "1_0",
        "\u00b3",
        "$",
        ".",
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert canonical_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "1e999999",
        "-1e-999999",
        "1e9999999999",
        "9" * 4000,
        "1" + "0" * 4000,
        "9" * 10**6,
        "0." + "0" * 4000 + "1",
    ],
)
def test_hostile_numbers_stay_short(text: str) -> None:
    value = canonical_number(text)
    assert value is None or len(value) <= 2 * 4096


def test_huge_exponents_are_never_spelled_out() -> None:
    assert canonical_number("1e999999") == canonical_number("10e999998") == "1E+999999"


def test_unicode_digits_vote_with_ascii_ones() -> None:
    assert canonical_number("\u0661\u0668") == "18"


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    value = canonical_number(text)
    assert value is None or canonical_number(value) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_the_text_keeps_the_value(value: Decimal) -> None:
    text = canonical_number(f"{value:f}")
    assert text is not None
    assert Decimal(text) == value


@pytest.mark.parametrize(
    ("text", "expected"), [("### 7", "7"), ("3 # 4 # 5", "5"), ("7", None), ("# none", None), ("#", None)]
)
def test_an_answer_is_the_number_after_the_last_marker(text: str, expected: str | None) -> None:
    assert answer_after_marker(text) == expected
