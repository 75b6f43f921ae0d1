"""What a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """What stands behind a given name and says which of the allowed ones is nearest; empty where none is near.

    >>> did_you_mean("droput", ["dropout", "noise"])
    " (did you mean 'dropout'?)"
    """
    near = difflib.get_close_matches(given, list(allowed), 1) if isinstance(given, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""
