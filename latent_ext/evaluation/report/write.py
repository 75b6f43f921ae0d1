"""Renders a report and puts its files where they belong."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from latent_ext._version import __version__
from latent_ext.durable import write_text
from latent_ext.evaluation.report.canvas import render
from latent_ext.evaluation.report.execution import execution_facts
from latent_ext.evaluation.report.palette import css_variables
from latent_ext.evaluation.report.run_files import Run, read_run
from latent_ext.evaluation.report.sections import Section, sections_of
from latent_ext.evaluation.report.tables import Cell, cells_of, csv_of, table_csv, telling_rows

PAGE = "report.html"


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        page: the HTML file.
        figures, tables: PNG and CSV files.
    """

    page: Path
    figures: list[Path]
    tables: list[Path]


def write_report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Writes the report of one run, or of two side by side with paired differences.

    Args:
        runs: one or two directories that ``latent-ext evaluate`` wrote.
        out: directory for report.html, figures/*.png and tables/*.csv. Default: that of the run; for two,
            ``against-<second>`` in that of the first.
        progress: called with (figures done, figures in all).

    Returns:
        The files.

    Raises:
        ValueError: naming the argument, or the file and line that cannot be used. Nothing is written then.
        ModuleNotFoundError: naming the extra `report`, without matplotlib or jinja2.
    """
    if not 1 <= len(runs) <= 2:
        raise ValueError(f"runs: got {len(runs)}; one or two run directories are needed")
    read = [read_run(run) for run in runs]
    if out is None:
        out = Path(runs[0]) if len(runs) == 1 else Path(runs[0]) / f"against-{read[1].name}"
    sections = sections_of(read)
    names = _Names()
    total = sum(len(section.figures) for section in sections)
    pictures: dict[str, bytes] = {}
    sheets: dict[str, str] = {}
    shown, done = [], 0
    for section in sections:
        figures = []
        for label, figure in section.figures:
            svg, png = render(figure)
            stem = names.stem(figure.name, label)
            pictures[stem] = png
            sheets[stem] = csv_of(figure.columns, figure.rows)
            figures.append({"run": label, "figure": figure, "svg": svg, "stem": stem})
            done += 1
            if progress is not None:
                progress(done, total)
        tables = []
        for label, table in section.tables:
            stem = names.stem(table["name"], label)
            sheets[stem] = table_csv(table)
            tables.append(_table(label, table, stem))
        shown.append({"section": section, "figures": figures, "tables": tables})
    page = _page(read, sections, shown)
    directory = Path(out)
    try:
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        (directory / "tables").mkdir(exist_ok=True)
        figure_files = [directory / "figures" / f"{stem}.png" for stem in pictures]
        for path, content in zip(figure_files, pictures.values(), strict=True):
            path.write_bytes(content)
        table_files = [directory / "tables" / f"{stem}.csv" for stem in sheets]
        for path, text in zip(table_files, sheets.values(), strict=True):
            write_text(path, text)
        write_text(directory / PAGE, page)
    except OSError as error:
        raise ValueError(f"out: {directory} cannot be written: {error.strerror or error}") from None
    return Written(directory / PAGE, figure_files, table_files)


class _Names:
    """File names that stay in their folder, whatever a run calls its datasets and arms, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def stem(self, name: str, run: str) -> str:
        wanted = re.sub(r"[^A-Za-z0-9_+-]+", "_", f"{run}-{name}" if run else name)[:100]
        stem, number = wanted, 2
        while stem.lower() in self._taken:
            stem, number = f"{wanted}-{number}", number + 1
        self._taken.add(stem.lower())
        return stem


def _table(label: str, table: dict[str, Any], stem: str) -> dict[str, Any]:
    cells = cells_of(table)
    telling = telling_rows(table)
    return {
        "run": label,
        "title": table["title"],
        "note": table.get("note", ""),
        "columns": table["columns"],
        "rows": cells if telling is None else [cells[place] for place in telling],
        "all": cells if telling is not None else [],
        "stem": stem,
    }


def _headlines(run: Run) -> list[tuple[str, Cell]]:
    """The figures that people ask for first: greedy and the first sampled pool, on the first dataset."""
    table = next((one for one in run.summary["tables"] if one["name"].startswith("accuracy")), None)
    if table is None:
        return []
    kept = telling_rows(table)
    rows = [cells_of(table)[place] for place in (kept if kept is not None else range(len(table["rows"])))]
    sampled = next((row[0].text for row in rows if row[1].text not in ("greedy", "pass@1")), None)
    return [
        (
            f"{row[1].text}" if row[1].text in ("greedy", "pass@1") else f"{row[1].text}, N = {row[2].text}",
            row[3],
        )
        for row in rows
        if row[1].text == "greedy" or row[0].text == sampled
    ]


def _page(runs: Sequence[Run], sections: Sequence[Section], shown: Sequence[dict[str, Any]]) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "report: needs jinja2, of the extra report: pip install 'latent_ext[report]'"
        ) from None
    here = resources.files("latent_ext.evaluation.report")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Only what this package made itself goes into the page unescaped; matplotlib has escaped the texts in its SVG.
    return template.from_string((here / "report.html.jinja").read_text(encoding="utf-8")).render(
        runs=[
            {
                "run": run,
                "headlines": _headlines(run),
                "facts": execution_facts(run.attempts),
                "settings": sorted(run.settings.items()),
            }
            for run in runs
        ],
        sections=shown,
        light=Markup(css_variables(dark=False)),
        dark=Markup(css_variables(dark=True)),
        css=Markup((here / "report.css").read_text(encoding="utf-8")),
        svg=lambda text, title: Markup(
            text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(title)}" ', 1)
        ),
        version=__version__,
    )
