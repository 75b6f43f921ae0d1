"""Numbers read from decoded answers: one canonical text per value, so that equal answers vote together."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

# Beyond this many digits a value stays in scientific notation: 1e999999 must not be spelled out.
_PLAIN_DIGITS = 40
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,6})?")


def canonical_number(text: str) -> str | None:
    """The canonical text of the number that ``text`` holds, or None when it holds none.

    Surrounding blanks, thousands separators, a leading ``$`` and a trailing full stop are ignored;
    ``"18.0"``, ``"+18"`` and ``"18"`` give the same text. Infinity and NaN are not numbers.

    >>> canonical_number(" 1,080.50 ")
    '1080.5'
    >>> canonical_number("none") is None
    True
    """
    cleaned = text.strip().replace(",", "").removeprefix("$").strip()
    if len(cleaned) > 4096:
        return None
    match = _NUMBER.fullmatch(cleaned.removesuffix(".") if cleaned.count(".") <= 1 else cleaned)
    if match is None:
        return None
    try:
        value = Decimal(match.group(0))
    except InvalidOperation:
        return None
    if value == 0:
        return "0"
    digits, exponent = value.as_tuple().digits, int(value.as_tuple().exponent)
    while len(digits) > 1 and digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    value = Decimal((value.as_tuple().sign, digits, exponent))
    return f"{value:f}" if abs(exponent) + len(digits) <= _PLAIN_DIGITS else f"{value:E}"


def answer_after_marker(text: str, marker: str = "#") -> str | None:
    """COCONUT's rule: the number after the last ``#`` of the decoded answer (LatentTTS, Coconut).

    Unlike the published code, text without the marker is no answer, and what is no number never becomes
    infinity that could win a vote.
    """
    _, found, tail = text.rpartition(marker)
    return canonical_number(tail) if found else None
