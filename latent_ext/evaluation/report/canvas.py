"""From a drawing to an SVG that lives in the page and a PNG that stands beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from latent_ext.evaluation.report.palette import COLOURS, light

# Inches at 72 to the inch in the SVG; a phone's width takes the figure nearly as it is, so that its text stays legible.
WIDTH, HEIGHT = 5.2, 3.4
_PNG_DPI = 200
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names from files may hold a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": light("rule"),
    "axes.labelcolor": light("muted"),
    "axes.labelsize": 9,
    "axes.labelpad": 7,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": light("rule"),
    "grid.linewidth": 0.6,
    "xtick.color": light("rule"),
    "ytick.color": light("rule"),
    "xtick.labelcolor": light("muted"),
    "ytick.labelcolor": light("muted"),
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "text.color": light("ink"),
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        name: of its files.
        title: what it shows, in a few words.
        caption: how to read it, and what the bands are.
        draw: draws it on the axes of a matplotlib figure.
        columns, rows: the numbers behind it, for the CSV.
        size: width and height in inches.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Any], None]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    size: tuple[float, float] = field(default=(WIDTH, HEIGHT))


def render(figure: Figure) -> tuple[str, bytes]:
    """The figure as an ``<svg>`` element for the page and as a PNG.

    Raises:
        ModuleNotFoundError: naming the extra `report`, without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as Drawing
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "report: needs matplotlib, of the extra report: pip install 'latent_ext[report]'"
        ) from None
    vector, pixels = io.StringIO(), io.BytesIO()
    # The salt keeps ids of clip paths apart from those of other figures in the page, and the same in every run.
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": figure.name}):
        drawing = Drawing(figsize=figure.size, layout="constrained")
        figure.draw(drawing.add_subplot())
        FigureCanvasSVG(drawing).print_svg(vector, metadata={"Date": None, "Creator": None})
        FigureCanvasAgg(drawing)
        drawing.savefig(
            pixels, format="png", dpi=_PNG_DPI, facecolor=light("surface"), metadata={"Software": None}
        )
    return _for_page(vector.getvalue()), pixels.getvalue()


def _for_page(svg: str) -> str:
    """An SVG file as an element of a page: its colours are the page's variables, its font the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # Names such as "axes_1" would stand in the page once per figure; what is referred to has a hash of its own.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = svg.replace("'DejaVu Sans'", "var(--font)")
    for name, (colour, _) in COLOURS.items():
        # Only in styles and attributes: a text may speak of a colour.
        svg = re.sub(rf"(?<=[:\" ]){colour}(?=[;\"])", f"var(--{name})", svg)
    return svg.strip()
