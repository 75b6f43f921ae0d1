"""Problem files, good and hostile, and the problems in the package."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latent_ext.assets import SHIPPED_PROBLEMS
from latent_ext.evaluation.arithmetic import Problem, split_of
from latent_ext.evaluation.problems import NamedProblem, ProblemError, read_problems, shipped_problems

SPLITS = ("test_2_5", "test_5", "test_6", "valid")
DEEP = "[" * 100_000


def read_lines(text: str) -> list[NamedProblem]:
    return read_problems(io.StringIO(text))


def test_objects_and_plain_texts_are_problems() -> None:
    text = '{"id": "a", "question": "one", "answer": "1"}\n\n"two"\n{"question": "three", "answer": 3.5}\n'
    assert read_lines(text) == [
        NamedProblem("a", "one", "1"),
        NamedProblem("3", "two", None),
        NamedProblem("4", "three", "3.5"),
    ]


def test_a_json_list_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "problems.json"
    path.write_text('["one",\n {"question": "two", "answer": 0}]')
    assert read_problems(path) == [NamedProblem("0", "one", None), NamedProblem("1", "two", "0")]


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b'\xef\xbb\xbf"one"\r\n"two"\r\n')
    assert [problem.question for problem in read_problems(path)] == ["one", "two"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_separators_that_json_allows_in_a_text_do_not_end_a_line(separator: str) -> None:
    question = f"one{separator}two"
    assert read_lines(json.dumps(question, ensure_ascii=False))[0].question == question


@pytest.mark.parametrize(
    "line",
    [
        "{",
        DEEP,
        '{"question": ' + DEEP,
        '{"question": "q", "answer": ' + "9" * 5000 + "}",
        '{"question": "q", "answer": NaN}',
        '{"question": "q", "answer": -Infinity}',
        '{"question": "q", "answer": 1e999}',
        '{"question": "q", "answer": true}',
        '{"question": "q", "answer": [1]}',
        '{"question": "q", "answer": ""}',
        '{"question": "q", "id": {}}',
        '{"question": 7}',
        '{"question": " "}',
        '{"question": "\\ud800"}',
        '{"question": ' + "[" * 900 + "]" * 900 + "}",
        '{"answer": 1}',
        "null",
        "7",
        "[]",
        '""',
    ],
)
def test_what_is_no_problem_is_refused_by_line_in_one_short_sentence(line: str) -> None:
    with pytest.raises(ProblemError, match="line 2") as refused:
        read_lines(f'"one"\n{line}\n')
    assert len(str(refused.value)) < 300


@given(st.lists(st.text(max_size=30), max_size=5).map("\n".join))
def test_random_text_gives_problems_or_a_problem_error(text: str) -> None:
    try:
        problems = read_lines(text)
    except ProblemError:
        return
    assert all(problem.question.strip() for problem in problems)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(("question", "answer", "id"), _VALUES))))
def test_random_json_gives_problems_or_a_problem_error(items: list[dict]) -> None:
    try:
        problems = read_lines("\n".join(json.dumps(item) for item in items))
    except ProblemError:
        return
    assert len(problems) == len(items)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40), suffix=st.sampled_from([".json", ".jsonl"]))
def test_random_bytes_give_problems_or_a_problem_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"problems{suffix}"
    path.write_bytes(content)
    message = None
    try:
        read_problems(path)
    except ProblemError as error:
        message = str(error)
    assert message is None or str(path) in message


@pytest.mark.parametrize("name", ["absent.jsonl", "", "a\0b"])
def test_a_path_that_cannot_be_read_is_a_problem_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProblemError, match="cannot be read"):
        read_problems(tmp_path / name)


def test_a_json_file_that_holds_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "problems.json"
    path.write_text("{}")
    with pytest.raises(ProblemError, match="a list of problems is needed"):
        read_problems(path)


@pytest.mark.parametrize("split", SPLITS)
def test_each_shipped_split_has_500_different_problems_none_of_which_is_trained_on(split: str) -> None:
    problems = shipped_problems(split)
    assert len({problem.question for problem in problems}) == len(problems) == 500
    assert {split_of(problem.question) for problem in problems} == {split.split("_")[0]}


@pytest.mark.parametrize("split", SPLITS)
def test_shipped_answers_follow_from_their_steps_and_steps_from_the_story(split: str) -> None:
    text = (SHIPPED_PROBLEMS / f"{split}.jsonl").read_text(encoding="utf-8")
    for problem in map(Problem.from_json, text.splitlines()):
        value = re.findall(r"\d+", problem.question)[0]
        for step in problem.steps:
            left, operation, right, result = re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step).groups()
            a, b = int(left), int(right)
            assert left == value
            assert a % b == 0 or operation != "/"
            assert int(result) == {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[operation]
            value = result
        assert problem.answer == value
        numbers = re.findall(r"\d+", problem.question)
        assert numbers[1:] == [re.split(r"[-+*/]|=", step[2:-2])[1] for step in problem.steps]


def test_a_limit_gives_the_first_problems() -> None:
    assert shipped_problems("valid", 3) == shipped_problems("valid")[:3]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ProblemError, match="limit: got"):
        shipped_problems("valid", limit)


@pytest.mark.parametrize("split", ["train", "", "../problems/valid", "valid.jsonl"])
def test_an_unknown_split_is_refused_with_those_there_are(split: str) -> None:
    with pytest.raises(ProblemError, match=", ".join(SPLITS)):
        shipped_problems(split)
