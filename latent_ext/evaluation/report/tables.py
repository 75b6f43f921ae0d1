"""Tables of the report: cells with their intervals, as text, and where their bars lie."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

_LONG = 14
_WITH_INTERVAL = ("share", "auc", "difference")


@dataclass(frozen=True)
class Cell:
    """A cell as the page shows it.

    Attributes:
        kind: "text", "count", "share", "auc" or "difference".
        text: the value.
        interval: its 95 % interval; empty where it has none.
        bar: (left, width, mean) of the interval in percent of the cell's scale; None where it has none.
        reading: of a difference: "gain", "loss" or "no difference shown".
    """

    kind: str
    text: str
    interval: str = ""
    bar: tuple[float, float, float] | None = None
    reading: str = ""


def cells_of(table: dict[str, Any]) -> list[list[Cell]]:
    """The table's cells."""
    kinds = [column["kind"] for column in table["columns"]]
    reach = [
        max((max(abs(v["low"]), abs(v["high"])) for row in table["rows"] if (v := row[place])), default=0.0)
        or 1.0
        if kind == "difference"
        else 1.0
        for place, kind in enumerate(kinds)
    ]
    return [
        [_cell(value, kind, span) for value, kind, span in zip(row, kinds, reach, strict=True)]
        for row in table["rows"]
    ]


def telling_rows(table: dict[str, Any]) -> list[int] | None:
    """Rows of a long table that say most: each arm and method at its largest N; None where all rows are shown."""
    columns = table["columns"]
    n = next((place for place, column in enumerate(columns) if column["name"] == "N"), None)
    if len(table["rows"]) <= _LONG or n is None:
        return None
    texts = [place for place, column in enumerate(columns) if column["kind"] == "text"]
    largest: dict[tuple[str, ...], int] = {}
    for place, row in enumerate(table["rows"]):
        key = tuple(row[text] for text in texts)
        if key not in largest or row[n] >= table["rows"][largest[key]][n]:
            largest[key] = place
    return sorted(largest.values()) if len(largest) < len(table["rows"]) else None


def csv_of(columns: Any, rows: Any) -> str:
    """CSV text of plain values; null is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_inert(column) for column in columns])
    writer.writerows([[_inert(value) for value in row] for row in rows])
    return text.getvalue()


def table_csv(table: dict[str, Any]) -> str:
    """CSV text of a table; what has an interval is spread over mean, low and high."""
    columns: list[str] = []
    for column in table["columns"]:
        wide = column["kind"] in _WITH_INTERVAL
        columns += [f"{column['name']}{part}" for part in ("", " low", " high")] if wide else [column["name"]]
    rows = []
    for row in table["rows"]:
        flat: list[Any] = []
        for value, column in zip(row, table["columns"], strict=True):
            if column["kind"] in _WITH_INTERVAL:
                flat += [None] * 3 if value is None else [value["mean"], value["low"], value["high"]]
            else:
                flat.append(value)
        rows.append(flat)
    return csv_of(columns, rows)


def _inert(value: Any) -> Any:
    # A spreadsheet would run a text that starts like a formula.
    risky = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(value)
    return f"'{value}" if risky else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(value: Any, kind: str, reach: float) -> Cell:
    if value is None:
        return Cell(kind, "\N{EN DASH}")
    if kind == "count":
        return Cell(kind, f"{value:,.1f}".removesuffix(".0") if isinstance(value, float) else f"{value:,}")
    if kind == "text":
        return Cell(kind, str(value))
    low, high, mean = 100 * value["low"], 100 * value["high"], 100 * value["mean"]
    if kind == "share":
        return Cell(kind, f"{mean:.1f}", f"{low:.1f} to {high:.1f}", (low, high - low, mean))
    if kind == "auc":
        interval = f"{value['low']:.3f} to {value['high']:.3f}"
        return Cell(kind, f"{value['mean']:.3f}", interval, (low, high - low, mean))
    # Half of the scale to each side of 0, as wide as the column's widest interval.
    left, right, middle = (50 + 50 * share / (100 * reach) for share in (low, high, mean))
    interval = f"{low:+.1f} to {high:+.1f}".replace("-", "\N{MINUS SIGN}")
    return Cell(
        kind,
        f"{mean:+.1f}".replace("-", "\N{MINUS SIGN}"),
        interval,
        (left, right - left, middle),
        value.get("reading", ""),
    )
