"""What stands in a report, in order: each section with its tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from latent_ext.evaluation.analysis.of_recipe import ANALYSIS
from latent_ext.evaluation.ledger import LedgerError
from latent_ext.evaluation.report.calibration import confidence_figure, score_figure
from latent_ext.evaluation.report.canvas import Figure
from latent_ext.evaluation.report.compare import difference_table
from latent_ext.evaluation.report.map_figures import map_figures
from latent_ext.evaluation.report.post_mortem import missed, post_mortem_figure
from latent_ext.evaluation.report.run_files import Run
from latent_ext.evaluation.report.scaling_figures import coverage_figures, scaling_figures
from latent_ext.evaluation.report.sweep_figures import steps_figure, sweep_figures
from latent_ext.evaluation.report.thought_figures import (
    agreement_figure,
    distance_figures,
    example_figure,
    fidelity_figure,
    naming_figure,
    rank_figure,
)
from latent_ext.evaluation.shares import BEST, MAJORITY

_MISSED_SHOWN = 12


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        anchor: of its heading.
        title, lead: what it asks.
        tables: (run's name or "", table as in summary.json).
        figures: (run's name or "", figure).
    """

    anchor: str
    title: str
    lead: str
    tables: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    figures: list[tuple[str, Figure]] = field(default_factory=list)


def sections_of(runs: Sequence[Run]) -> list[Section]:
    """The sections of one run, or of two side by side; those without a table or figure are left out."""
    named = [(run.name if len(runs) > 1 else "", run) for run in runs]

    def tables(kind: str) -> list[tuple[str, dict[str, Any]]]:
        found = [
            (name, t) for name, run in named for t in run.summary["tables"] if t["name"].startswith(kind)
        ]
        # A table of one run stands by the same table of the other.
        order = list(dict.fromkeys(table["name"] for _, table in found))
        return sorted(found, key=lambda one: order.index(one[1]["name"]))

    def figures(make: Callable[[Run], list[Figure]]) -> list[tuple[str, Figure]]:
        found = [(name, figure) for name, run in named for figure in make(run)]
        order = list(dict.fromkeys(figure.name for _, figure in found))
        return sorted(found, key=lambda one: order.index(one[1].name))

    listed = [
        Section("accuracy", "Accuracy", "What each way of spending N trajectories reaches.",
                tables("accuracy"), figures(lambda run: scaling_figures(run) + coverage_figures(run))),
        Section("missed", "Where the oracle had it", "A right answer was among the N, and the choice passed over it.",
                [(name, table) for name, run in named for table in _missed_tables(run)], figures(_post_mortems)),
        Section("reward", "The reward", "Whether scores and votes know what is right.",
                tables("reward"), figures(_calibrations)),
        Section("thoughts", "Thoughts apart", "Do trajectories differ, and where?",
                [], figures(_parts(lambda a: [*distance_figures(a), fidelity_figure(a), rank_figure(a)]))),
        Section("read-out", "Thoughts read out", "What the LM head makes of the vectors that are fed back.",
                [], figures(_parts(lambda a: [naming_figure(a), agreement_figure(a), example_figure(a)]))),
        Section("maps", "Maps", "One question's trajectories around the deterministic one.",
                [], figures(_parts(map_figures))),
        Section("diversity", "Diversity, depth and width", "What more noise, longer thoughts or more of them buy.",
                [], figures(_parts(lambda a: [*sweep_figures(a), steps_figure(a)]))),
        Section("cost", "Work", "What a question costs.", tables("cost")),
    ]  # fmt: skip
    if len(runs) == 2:
        table = difference_table(*runs)
        if table is not None:
            listed.insert(
                0, Section("difference", "The difference", "Paired, question by question.", [("", table)])
            )
    return [section for section in listed if section.tables or section.figures]


def _pools(run: Run) -> list[tuple[str, str]]:
    kinds = {arm["name"]: arm["kind"] for arm in run.settings["arms"]}
    pairs = [(dataset, arm) for dataset in run.datasets for arm in run.arms if kinds[arm] == "pool"]
    return [pair for pair in pairs if any(len(line["answers"]) > 1 for line in run.lines_of(*pair))]


def _post_mortems(run: Run) -> list[Figure]:
    made = [post_mortem_figure(run, dataset, arm) for dataset, arm in _pools(run)]
    return [figure for figure in made if figure is not None]


def _calibrations(run: Run) -> list[Figure]:
    made = [make(run, *pair) for pair in _pools(run) for make in (score_figure, confidence_figure)]
    return [figure for figure in made if figure is not None]


def _missed_tables(run: Run) -> list[dict[str, Any]]:
    tables = []
    for dataset, arm in _pools(run)[:1]:
        lines = run.lines_of(dataset, arm)
        scored = any(line["scores"] is not None for line in lines)
        method = BEST if scored else MAJORITY
        found = missed(lines, method)
        columns = [
            ("question", "text"), ("seed", "text"), ("gold", "text"), ("chosen", "text"), ("right among N", "text"),
            ("rank of the best right one", "text"),
        ]  # fmt: skip
        rows = [
            [one.id, one.seed, one.gold, one.chosen, f"{one.right} of {one.n}", one.rank]
            for one in found[:_MISSED_SHOWN]
        ]
        if rows:
            tables.append(
                {
                    "name": f"missed-{dataset}-{arm}",
                    "title": f"{dataset}, {arm}: lost by {method} with the most right trajectories",
                    "note": f"{len(found)} of {len(lines)} pools were lost so; the first {len(rows)} are shown.",
                    "columns": [{"name": name, "kind": kind} for name, kind in columns],
                    "rows": rows,
                }
            )
    return tables


def _parts(make: Callable[[dict[str, Any]], Sequence[Figure | None]]) -> Callable[[Run], list[Figure]]:
    """Figures of a run's analysis; a damaged one is refused in one sentence."""

    def made(run: Run) -> list[Figure]:
        if run.analysis is None:
            return []
        try:
            return [figure for figure in make(run.analysis) if figure is not None]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise LedgerError(
                f"run: {ANALYSIS} of {run.name} is not what `latent-ext analyse` writes: {type(error).__name__}: {error}"
            ) from None

    return made
