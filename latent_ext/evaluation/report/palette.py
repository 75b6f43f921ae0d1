"""Colours of the report, each once: after Okabe and Ito (2008), told apart by every kind of colour vision.

Figures are drawn in the light colours; in the page each of them is a CSS variable, so that one SVG serves light and dark.
Text in a colour has a contrast of at least 4.5 on its background (WCAG 2.2, 1.4.3).
"""

from __future__ import annotations

# name: (light, dark)
COLOURS = {
    "surface": ("#ffffff", "#15181d"),
    "ink": ("#1c2127", "#e8ebef"),
    "muted": ("#5f6873", "#9aa4b1"),
    "rule": ("#dfe3e8", "#2e343d"),
    "blue": ("#0069a8", "#5cb0ee"),
    "vermillion": ("#bf4a00", "#ff9259"),
    "green": ("#007f5b", "#3cc79d"),
    "purple": ("#a03f78", "#e79cc6"),
    "amber": ("#8f6000", "#efb548"),
    "sky": ("#25769f", "#8ed2fb"),
}
SERIES = ("blue", "vermillion", "green", "purple", "amber", "sky")

# A method has the same colour in every figure. Coverage is what a perfect selector would reach: no method.
METHODS = {
    "coverage": ("muted", "--"),
    "majority vote": ("blue", "-"),
    "weighted vote": ("green", "-"),
    "best-of-N": ("vermillion", "-"),
}
RIGHT, WRONG = "blue", "vermillion"


def light(name: str) -> str:
    """The colour in which figures are drawn."""
    return COLOURS[name][0]


def series(place: int) -> str:
    """Name of the colour of the arm at `place`; after the last one they start again."""
    return SERIES[place % len(SERIES)]


def css_variables(dark: bool) -> str:
    """CSS declarations of all colours."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())
