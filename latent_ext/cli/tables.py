"""Tables of summary.json on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_tables(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints every table that has a row, with its note below."""
    console = console or Console()
    for described in summary["tables"]:
        if not described["rows"]:
            continue
        table = Table(title=described["title"], title_justify="left")
        kinds = [column["kind"] for column in described["columns"]]
        for column in described["columns"]:
            table.add_column(column["name"], justify="left" if column["kind"] == "text" else "right")
        grouped = len({row[0] for row in described["rows"]}) < len(described["rows"])
        previous = None
        for row in described["rows"]:
            if grouped and previous is not None and row[0] != previous:
                table.add_section()
            cells = [cell_text(kind, value) for kind, value in zip(kinds, row, strict=True)]
            table.add_row("" if row[0] == previous else cells[0], *cells[1:])
            previous = row[0]
        console.print(table, markup=False)
        console.print(described["note"], style="dim", markup=False, highlight=False)
        console.print()


def cell_text(kind: str, value: Any) -> str:
    """A cell as it is read: shares in percent, differences in points, an AUC in [0, 1], all with their 95 % intervals.

    >>> cell_text("share", {"mean": 0.724, "low": 0.691, "high": 0.755})
    '72.4 (69.1 to 75.5)'
    """
    if value is None:
        return ""
    if kind == "count":
        return f"{value:.3g}" if value >= 1e7 else f"{value:,.1f}".removesuffix(".0")
    if kind == "share":
        return f"{100 * value['mean']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
    if kind == "auc":
        return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    if kind == "difference":
        bounds = f"({100 * value['low']:+.1f} to {100 * value['high']:+.1f})"
        if value["reading"] in ("gain", "loss"):
            return f"{100 * value['mean']:+.1f} {bounds}"
        return f"{value['reading']} {bounds}"
    return str(value)
