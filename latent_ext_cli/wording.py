"""Errors of Python functions in the words of who typed a command."""

from __future__ import annotations

import re
from collections.abc import Mapping


def as_typed(message: str, options: Mapping[str, str]) -> str:
    """An error in which every argument that was given by an option stands as that option.

    Args:
        message: names an argument at its start (``n: got 0``), or with its value (``with select='beam'``, ``give beams=``).
        options: of the command that was called, by argument.

    >>> as_typed("n: got 4 with select='beam'; give beams=", {"n": "--n", "select": "--select", "beams": "--beams"})
    '--n: got 4 with --select beam; give --beams'
    """
    if not options:
        return message
    names = "|".join(re.escape(name) for name in sorted(options, key=len, reverse=True))
    message = re.sub(rf"^({names})(?=:)", lambda found: options[found[1]], message)
    # What follows a quote or a point is no argument: it is what was typed, or a key of a recipe.
    given = re.compile(rf"(?<![\w.'\"-])({names})=(?:'([\w+.-]+)'|([\w+.-]*\w))?")
    return given.sub(lambda found: " ".join(filter(None, (options[found[1]], found[2], found[3]))), message)
