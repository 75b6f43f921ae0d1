"""Answers of models that write free text: boxed, stated in a sentence, or the last number."""

from __future__ import annotations

import re

from latent_ext.models.answers import canonical_number

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def last_number(text: str) -> str | None:
    """Canonical form of the last number in `text`; None where there is none.

    >>> last_number("6 apples, then 1,080 more.")
    '1080'
    """
    found = _NUMBER.findall(text)
    return canonical_number(found[-1].rstrip(",")) if found else None


def boxed_number(text: str) -> str | None:
    r"""The number in the last ``\boxed{...}``, else after the last ``####``, else the last number.

    This order is that of Latent-GRPO's evaluation (eval_low_tasks).

    >>> boxed_number(r"2 + 2 is \boxed{4}, not 5")
    '4'
    """
    for marker in (r"\boxed{", "####"):
        _, found, tail = text.rpartition(marker)
        if found:
            inside = tail.partition("}")[0] if marker.startswith("\\") else tail.strip().partition("\n")[0]
            number = canonical_number(inside)
            return last_number(inside) if number is None else number
    return last_number(text)


def stated_number(text: str) -> str | None:
    """The number after the last ``The answer is``, else the last number (lm-eval's gsm8k_cot, as Huginn is run).

    >>> stated_number("So 3 + 4 = 7. The answer is 7. Question: 8")
    '7'
    """
    stated = re.findall(r"The answer is\s*\$?(-?[\d.,]*\d)", text)
    return canonical_number(stated[-1]) if stated else last_number(text)
