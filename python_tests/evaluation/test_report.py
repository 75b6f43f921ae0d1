"""The report of a run: what it says, what stands beside it, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import HOSTILE, write_run

from latent_ext.cli.tables import cell_text
from latent_ext.evaluation.ledger import read_ledger
from latent_ext.evaluation.report import (
    Written,
    difference_table,
    missed,
    outcome,
    read_run,
    score_deciles,
    vote_confidence,
    write_report,
)
from latent_ext.evaluation.report.drawing import end_labels
from latent_ext.evaluation.report.execution import execution_facts
from latent_ext.evaluation.report.palette import COLOURS
from latent_ext.evaluation.report.tables import cells_of, csv_of, table_csv, telling_rows
from latent_ext.evaluation.settings import settings_hash


class Elements(HTMLParser):
    """Names and attributes of all elements, and their texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(hostile_report: Written) -> Elements:
    return Elements(hostile_report.page.read_text(encoding="utf-8"))


def test_an_auc_has_one_unit_everywhere(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    table = next(table for table in run.summary["tables"] if table["name"] == "reward-sums")
    (row,) = table["rows"]
    place = next(n for n, column in enumerate(table["columns"]) if column["kind"] == "auc")
    assert 0.0 < row[place]["mean"] < 1.0
    mean, low, high = (f"{row[place][key]:.3f}" for key in ("mean", "low", "high"))
    assert cell_text("auc", row[place]) == f"{mean} ({low} to {high})"
    cell = cells_of(table)[0][place]
    assert (cell.text, cell.interval) == (mean, f"{low} to {high}")
    assert cell.bar is not None
    assert cell.bar[2] == pytest.approx(100 * row[place]["mean"])
    spread = next(csv.DictReader(table_csv(table).splitlines()))
    assert float(spread["AUC within a question"]) == row[place]["mean"]
    assert "A coin has 0.5." in table["note"]


def test_html_in_a_runs_files_stays_text(page: Elements) -> None:
    assert not {"script", "img", "iframe", "object", "foreignobject"} & {tag for tag, _ in page.found}
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text


def test_the_page_asks_nothing_of_a_network(hostile_report: Written, page: Elements) -> None:
    for _, attributes in page.found:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "url(" not in re.sub(r"url\(#[a-z0-9]+\)", "", hostile_report.page.read_text(encoding="utf-8"))


def test_every_figure_stands_in_the_page_with_a_png_and_its_numbers(
    hostile_report: Written, page: Elements
) -> None:
    figures = [dict(a)["id"] for tag, a in page.found if tag == "figure"]
    assert figures == [f"figure-{path.stem}" for path in hostile_report.figures]
    assert sum(tag == "svg" for tag, _ in page.found) == len(figures)
    for path in hostile_report.figures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert (path.parent.parent / "tables" / f"{path.stem}.csv").is_file()
    kinds = (
        "scaling", "coverage", "post-mortem", "calibration-score", "calibration-vote", "distances", "movement",
        "fidelity", "rank", "read-out-names", "read-out-agreement", "read-out-example", "map", "sweep", "steps",
    )  # fmt: skip
    for kind in kinds:
        assert any(path.name.startswith(kind) for path in hostile_report.figures), kind


def test_a_figure_has_no_colour_that_the_theme_cannot_change(page: Elements) -> None:
    styles = " ".join(value for tag, a in page.found for value in a.values() if value and tag != "meta")
    assert set(re.findall(r"#[0-9a-f]{6}\b", styles)) == set()
    assert {f"var(--{name})" for name in ("ink", "muted", "rule", "blue")} <= set(
        re.findall(r"var\(--[a-z]+\)", styles)
    )


def test_settings_hashes_seeds_and_the_way_it_was_executed_are_told(
    page: Elements, made_up_run: Path
) -> None:
    for told in ("0, 1", "2" * 32, "1" * 16, "executor", "process", "noise:0.6", "made up"):
        assert told in page.text
    assert json.loads((made_up_run / "settings.json").read_text())["hash"] in page.text


def test_texts_can_be_read_in_both_themes() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (0, 1):
        surface = luminance(COLOURS["surface"][theme])
        for name in set(COLOURS) - {"surface", "rule"}:
            bright, dark = sorted((surface, luminance(COLOURS[name][theme])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (name, theme)


def test_the_same_run_gives_the_same_page(made_up_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    once, again = (
        write_report([made_up_run], tmp_path / name).page.read_bytes() for name in ("once", "again")
    )
    assert once == again


def test_a_report_of_two_runs_shows_the_paired_difference(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", lost=(1, 3), analysis=False)
    after = write_run(tmp_path / "after", lost=(3,), analysis=False)
    table = difference_table(read_run(before), read_run(after))
    assert table is not None
    rows = {(row[1], row[2]): row for row in table["rows"]}
    # One of six questions was won; nobody's coverage changed.
    assert rows["noise", "best-of-N"][-1]["mean"] == pytest.approx(1 / 6)
    assert rows["noise", "coverage"][-1]["mean"] == 0.0
    assert [cell["mean"] for cell in rows["greedy", "own choice"][5:7]] == pytest.approx([4 / 6, 5 / 6])
    written = write_report([before, after])
    assert written.page == before / "against-after" / "report.html"
    assert len({path.name for path in written.figures}) == len(written.figures)


def test_runs_on_other_questions_are_not_subtracted(tmp_path: Path) -> None:
    one = read_run(write_run(tmp_path / "one", identifier="a", analysis=False))
    other = read_run(write_run(tmp_path / "other", identifier="b", analysis=False))
    assert difference_table(one, other) is None


def test_a_post_mortem_finds_what_the_choice_missed(made_up_run: Path) -> None:
    lines = [line for line in read_ledger(made_up_run) if line["arm"] == "noise"]
    found = missed(lines, "best-of-N")
    assert sorted((one.id, one.seed) for one in found) == [("q1", 0), ("q1", 1), ("q3", 0), ("q3", 1)]
    # Trajectory 5 of 8 alone is right, and five others are scored above it.
    assert {(one.right, one.n, one.rank, one.chosen) for one in found} == {(1, 8, 6, "100")}
    assert [outcome(line, "best-of-N") for line in lines[:4]] == ["chosen", "missed", "chosen", "missed"]
    nowhere = {**lines[0], "correct": [False] * 8}
    assert outcome(nowhere, "best-of-N") == "nowhere"


def test_deciles_of_a_perfect_reward_rise_from_0_to_1(made_up_run: Path) -> None:
    line = next(line for line in read_ledger(made_up_run) if line["arm"] == "noise")
    scored = [
        {**line, "index": b, "scores": list(range(8)), "correct": [n > 3 for n in range(8)]} for b in range(5)
    ]
    found = score_deciles(scored, bins=2)
    assert [point["share"] for point in found] == [0.0, 1.0]
    assert [point["score"] for point in found] == [2, 6]


def test_a_vote_of_three_quarters_is_three_quarters_sure(made_up_run: Path) -> None:
    line = next(line for line in read_ledger(made_up_run) if line["arm"] == "noise")
    voted = {**line, "answers": ["7", "7", "7", "9"], "correct": [True] * 3 + [False], "scores": [0.0] * 4}
    for method in ("majority vote", "weighted vote"):
        [point] = vote_confidence([voted], method, bins=1)
        assert (point["confidence"], point["share"]) == (0.75, 1.0)


def test_a_long_table_shows_every_method_at_its_largest_n() -> None:
    columns = [
        {"name": name, "kind": kind} for name, kind in (("arm", "text"), ("method", "text"), ("N", "count"))
    ]
    rows = [[arm, "vote", n] for arm in ("a", "b") for n in range(1, 9)]
    assert telling_rows({"columns": columns, "rows": rows}) == [7, 15]
    assert telling_rows({"columns": columns, "rows": rows[:8]}) is None


def test_cells_carry_their_intervals() -> None:
    value = {"mean": -0.05, "low": -0.1, "high": 0.02, "reading": "no difference shown"}
    [[cell]] = cells_of({"columns": [{"name": "d", "kind": "difference"}], "rows": [[value]]})
    assert (cell.text, cell.interval) == ("\N{MINUS SIGN}5.0", "\N{MINUS SIGN}10.0 to +2.0")
    assert cell.bar == pytest.approx((0.0, 60.0, 25.0))


def test_a_spreadsheet_runs_no_formula_of_a_hostile_file() -> None:
    cells = ["=HYPERLINK(1)", "-3", -3.5, None, "@x"]
    assert list(csv.reader([csv_of(cells, []).strip()])) == [["'=HYPERLINK(1)", "-3", "-3.5", "", "'@x"]]


def test_labels_at_the_ends_of_lines_do_not_overlap() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure(figsize=(5, 3)).add_subplot()
    axes.set_ylim(0, 100)
    end_labels(axes, [(name, 50.0, "blue") for name in "abcd"], 1.0)
    places = sorted(label.xy[1] for label in axes.texts)
    assert min(after - before for before, after in itertools.pairwise(places)) > 5.0
    assert sum(places) / 4 == pytest.approx(50.0)


def test_execution_facts_count_attempts_workers_and_failures() -> None:
    entries = [
        {"at": "2026-01-01T00:00:00Z", "event": "started", "shard": "1/3", "threads": 2, "host": "secret"},
        {"at": "2026-01-01T00:01:00Z", "event": "batch", "seconds": 30, "host": "secret", "pid": 1},
        {"at": "2026-01-01T00:01:30Z", "event": "failed", "id": "q", "error": "no"},
        {"at": "2026-01-01T00:02:00Z", "event": "started", "shard": "1/3", "threads": 1},
        {"at": "2026-01-01T00:03:00Z", "event": "batch", "seconds": 12, "host": "b", "pid": 1},
        {"at": "2026-01-01T00:03:01Z", "event": "finished", "questions": 2},
    ]
    facts = dict(execution_facts(entries))
    assert facts["attempts"] == "2, of which 1 came to their end"
    assert facts["processes, hosts"] == "2, 2"
    assert facts["failures on the way"] == "1"
    assert (facts["shard"], facts["threads"]) == ("1/3", "2, then 1")
    assert facts["time in solve, over all workers"] == "42 s in 2 batches"
    assert "secret" not in "".join(facts.values())
    assert dict(execution_facts([]))["attempts"] == "no attempts.jsonl"


def test_names_that_leave_their_folder_do_not(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run", analysis=False)
    for name in ("settings.json", "ledger.jsonl"):
        (run / name).write_text((run / name).read_text().replace('"noise"', '"../../out"'))
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps(settings | {"hash": settings_hash(settings)}))
    written = write_report([run], tmp_path / "page")
    for path in (*written.figures, *written.tables):
        assert path.resolve().is_relative_to((tmp_path / "page").resolve())


def _damage(name: str, text: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_damage("settings.json", "{"), "settings.json cannot be read"),
        (_damage("ledger.jsonl", ""), "holds no result yet"),
        (_damage("ledger.jsonl", "nonsense\n"), "line 1 is not JSON"),
        (_damage("attempts.jsonl", "[1]\n"), "attempts.jsonl, line 1 holds list"),
        (_damage("analysis.json", "[]"), "analysis.json holds list"),
        (_damage("analysis.json", '{"distances": 3}'), "not what `latent-ext analyse` writes"),
        (_damage("analysis.json", '{"maps": [{"method": "x"}]}'), "not what `latent-ext analyse` writes"),
        (lambda run: (run / "settings.json").unlink(), "settings.json cannot be read"),
    ],
)
def test_a_damaged_run_is_named_and_nothing_is_written(
    made_up_run: Path, tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    damage(made_up_run)
    with pytest.raises(ValueError, match=re.escape(named)):
        write_report([made_up_run], tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_torn_last_line_is_left_out(made_up_run: Path) -> None:
    whole = read_run(made_up_run)
    for name in ("ledger.jsonl", "attempts.jsonl"):
        with (made_up_run / name).open("a") as file:
            file.write('{"dataset": "su')
    torn = read_run(made_up_run)
    assert (torn.lines, torn.attempts) == (whole.lines, whole.attempts)


def test_three_runs_are_refused(made_up_run: Path) -> None:
    with pytest.raises(ValueError, match="one or two"):
        write_report([made_up_run] * 3)


def test_a_missing_extra_is_named(made_up_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="extra report"):
        write_report([made_up_run])


def test_hostile_text_would_be_seen(page: Elements) -> None:
    # The planted text is there to be escaped: without it, the tests above would say nothing.
    assert page.text.count(HOSTILE[:20]) >= 3
