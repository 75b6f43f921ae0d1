"""Datasets in every layout, and the golds that a checker reads from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latent_ext.evaluation import shifts
from latent_ext.evaluation.checkers import checker
from latent_ext.evaluation.datasets import load_dataset
from latent_ext.evaluation.problems import ProblemError
from latent_ext.evaluation.recipe import DatasetSpec
from latent_ext.search.result import Trajectory

NUMBER = checker("number")


def load(tmp_path: Path, name: str, content: str, **spec: object) -> list[tuple[str, str, str | None]]:
    (tmp_path / name).write_text(content, encoding="utf-8")
    dataset = load_dataset(DatasetSpec("mine", file=str(tmp_path / name), **spec), NUMBER)
    return [(problem.id, problem.question, problem.answer) for problem in dataset.problems]


def test_the_layout_of_latenttts_is_read_with_golds_of_zero(tmp_path: Path) -> None:
    listed = [
        {"question": "one", "steps": ["<<1+0=1>>"], "answer": "1,080"},
        {"question": "two", "steps": [], "answer": "0"},
        {"question": "three", "answer": -2.50},
    ]
    found = load(tmp_path, "gsm_test.json", json.dumps(listed))
    assert found == [("0", "one", "1080"), ("1", "two", "0"), ("2", "three", "-2.5")]


def test_the_layout_of_gsm8k_has_its_gold_behind_the_last_mark(tmp_path: Path) -> None:
    line = json.dumps({"question": "q", "answer": "He has 4*3=<<4*3=12>>12.\n#### 1,200"})
    assert load(tmp_path, "test.jsonl", line + "\n") == [("1", "q", "1200")]


def test_columns_of_another_name_are_read(tmp_path: Path) -> None:
    line = json.dumps({"problem": "q", "solution": "7", "key": "k"})
    columns = {"question": "problem", "answer": "solution", "id": "key"}
    assert load(tmp_path, "math.jsonl", line, columns=columns) == [("k", "q", "7")]
    with pytest.raises(ProblemError, match=r"line 1 has solution_ None|answer|has no answer"):
        load(tmp_path, "math.jsonl", line, columns=columns | {"answer": "solution_"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"question": "q", "answer": "twelve"}',
            r"dataset mine: problem 2 \(id '2'\): got answer 'twelve'; a number",
        ),
        ('{"question": "q"}', r"dataset mine: problem 2 \(id '2'\) has no answer"),
        ('{"question": "q", "answer": "1 ####"}', "got answer ''"),
        ('{"question": "", "answer": "1"}', "mine.jsonl, line 2 has question ''"),
        ("[]", "mine.jsonl, line 2 holds list"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        load(tmp_path, "mine.jsonl", '{"question": "q", "answer": "1"}\n' + line)


def test_an_empty_file_holds_no_problem(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="dataset mine: holds no problem"):
        load(tmp_path, "mine.jsonl", "\n")


def test_generated_problems_are_those_of_the_generator() -> None:
    spec = DatasetSpec("mine", generate={"shift": "longer", "count": 3, "seed": 5}, limit=2)
    expected = shifts.problems("longer", count=3, seed=5)[:2]
    assert [problem.question for problem in load_dataset(spec, NUMBER).problems] == [
        problem.question for problem in expected
    ]
    with pytest.raises(ValueError, match="shift: got 'sideways'"):
        load_dataset(DatasetSpec("mine", generate={"shift": "sideways", "count": 3, "seed": 5}), NUMBER)


def test_the_hash_is_of_problems_and_their_order(tmp_path: Path) -> None:
    hashes = set()
    for limit in (None, 2, 3):
        hashes.add(load_dataset(DatasetSpec("any", shipped="test_5", limit=limit), NUMBER).hash)
    assert len(hashes) == 3
    assert load_dataset(DatasetSpec("other", shipped="test_5"), NUMBER).hash in hashes


def test_a_hub_dataset_is_read_from_a_directory_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "test.jsonl").write_text('{"question": "q", "answer": "so #### 5"}\n')
    (found,) = load_dataset(DatasetSpec("hub", hub=str(tmp_path)), NUMBER).problems
    assert (found.question, found.answer) == ("q", "5")
    with pytest.raises(ValueError, match="cannot be loaded from the Hub"):
        load_dataset(DatasetSpec("hub", hub=str(tmp_path / "absent")), NUMBER)


def test_an_unknown_checker_is_refused() -> None:
    with pytest.raises(ValueError, match="checker: got 'eye'; allowed are number, math-verify"):
        checker("eye")


def test_numbers_are_compared_exactly() -> None:
    assert NUMBER.gold("18.0") == "18"
    assert NUMBER.equal("18", "18")
    assert not NUMBER.equal("18.001", "18")
    assert not NUMBER.equal(None, "0")
    assert NUMBER.answer(Trajectory(0, 0, answer="0")) == "0"


def test_math_verify_sees_equal_values_of_different_form() -> None:
    pytest.importorskip("math_verify")
    mathematical = checker("math-verify")
    assert mathematical.equal("0.5", mathematical.gold("\\frac{1}{2}"))
    assert not mathematical.equal("0.51", mathematical.gold("\\frac{1}{2}"))
    assert not mathematical.equal(None, "1")
    assert mathematical.answer(Trajectory(0, 0, text="### \\frac{2}{4}")) is not None
    assert mathematical.answer(Trajectory(0, 0, text="### 7", answer="7")) == "7"
    with pytest.raises(ValueError, match="reads no value"):
        mathematical.gold("!!")
