"""Answer checkers: what an answer says, in one canonical text per value, and whether it equals a gold."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from latent_ext.models.answers import canonical_number
from latent_ext.recipes import shown
from latent_ext.search.result import Trajectory


class Checker(Protocol):
    """How answers are read and compared.

    Attributes:
        name: as recipes give it.
    """

    name: str

    def gold(self, text: str) -> str:
        """The gold in canonical form.

        Raises:
            ValueError: if this checker cannot compare with it.
        """

    def answer(self, trajectory: Trajectory) -> str | None:
        """A trajectory's answer in canonical form, which is what votes; None where there is none."""

    def equal(self, answer: str | None, gold: str) -> bool:
        """Whether a canonical answer is the canonical gold."""


class NumberChecker:
    """Exact numbers: "18.0", "$18" and "18" are equal, and 0 is a gold like any other."""

    name = "number"

    def gold(self, text: str) -> str:
        number = canonical_number(text)
        if number is None:
            raise ValueError(f"got answer {shown(text)}; a number is needed by checker 'number'")
        return number

    def answer(self, trajectory: Trajectory) -> str | None:
        return trajectory.answer

    def equal(self, answer: str | None, gold: str) -> bool:
        return answer == gold


class MathVerifyChecker:
    """Mathematical equality of what math-verify reads: 1/2 is 0.5, and \\frac{1}{2}. Extra ``math``.

    Numbers that the family itself reads off an answer stay as they are; any other answer is the text behind its last
    ``#``, or all of it.
    """

    name = "math-verify"

    def __init__(self) -> None:
        try:
            self._math: Any = importlib.import_module("math_verify")
        except ImportError:
            raise ValueError(
                "checker: 'math-verify' needs the extra 'math': pip install 'latent_ext[math]'"
            ) from None
        # It warns at every call that its time limit is off.
        logging.getLogger("math_verify").setLevel(logging.ERROR)

    def gold(self, text: str) -> str:
        number = canonical_number(text)
        if number is None and not self._parse(text):
            raise ValueError(f"got answer {shown(text)}; checker 'math-verify' reads no value from it")
        return text.strip() if number is None else number

    def answer(self, trajectory: Trajectory) -> str | None:
        if trajectory.answer is not None or trajectory.text is None:
            return trajectory.answer
        text = trajectory.text.rpartition("#")[2].strip()
        parsed = self._parse(text)
        return str(parsed[0]) if parsed else None

    def equal(self, answer: str | None, gold: str) -> bool:
        if answer is None or answer == gold:
            return answer is not None
        return bool(self._math.verify(self._parse(gold), self._parse(answer), timeout_seconds=None))

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - one checker lives as long as a run
    def _parse(self, text: str) -> list[Any]:
        # Its time limit is a signal, which only the main thread of a process may set.
        parse = self._math.parse
        parsed = parse(text, parsing_timeout=None) or parse(f"${text}$", parsing_timeout=None)
        # Where it reads no value it gives the text itself back.
        return parsed if any(not isinstance(value, str) for value in parsed) else []


CHECKERS: dict[str, Callable[[], Checker]] = {"number": NumberChecker, "math-verify": MathVerifyChecker}


def checker(name: str) -> Checker:
    """The checker of that name.

    Raises:
        ValueError: for an unknown name, or one whose package is not installed.
    """
    if name not in CHECKERS:
        raise ValueError(f"checker: got {name!r}; allowed are {', '.join(CHECKERS)}")
    return CHECKERS[name]()
