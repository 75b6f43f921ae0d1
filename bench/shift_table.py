"""One table of a run over shifts, a line per dataset, from its summary.json: the table of docs/evaluation.md.

    latent-ext evaluate examples/evaluate/shifts.yaml --out runs/shifts
    python bench/shift_table.py runs/shifts

Cells are percent with 95 % intervals over problems and seeds. The last two columns are differences within a shift, paired
over its problems.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

# (method, N) in the accuracy tables of `latent_ext.evaluation.summary`.
_SHARES = (("greedy", 1), ("pass@1", 1), ("coverage", 64), ("best-of-N", 64), ("majority vote", 64))
_DIFFERENCES = (("best-of-N", 64, "against majority"), ("majority vote", 64, "against greedy"))


def percent(value: dict[str, Any], sign: str = "") -> str:
    """A share or difference as "mean (low to high)"."""
    return (
        f"{100 * value['mean']:{sign}.1f} ({100 * value['low']:{sign}.1f} to {100 * value['high']:{sign}.1f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    arguments = parser.parse_args()
    summary = json.loads((arguments.run / "summary.json").read_text(encoding="utf-8"))
    heads = [method if n == 1 else f"{method}, N={n}" for method, n in _SHARES]
    heads += [f"{method} {against}, N={n}" for method, n, against in _DIFFERENCES]
    print("| shift | problems | " + " | ".join(heads) + " |")
    print("|---" * (2 + len(heads)) + "|")
    for table in summary["tables"]:
        kind, _, shift = table["name"].partition("-")
        if kind != "accuracy":
            continue
        names = [column["name"] for column in table["columns"]]
        listed = [dict(zip(names, row, strict=True)) for row in table["rows"]]
        rows = {(row["method"], row["N"]): row for row in listed}
        shares = [rows[key]["accuracy"] for key in _SHARES]
        cells = [percent(share) for share in shares]
        cells += [percent(rows[method, n][against], "+") for method, n, against in _DIFFERENCES]
        print(f"| {shift} | {shares[0]['problems']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
