"""Each shift changes what it says and nothing else, and every question can be read."""

from __future__ import annotations

import re
from functools import cache

import pytest

from latent_ext import load
from latent_ext.evaluation.arithmetic import TRAINED, Problem, generate, split_of
from latent_ext.evaluation.shifts import SHIFTS, problems
from latent_ext.models.latent_model import LatentModel

_COUNT = 60
_STEP = re.compile(r"<<(\d+)([-+*/])(\d+)=(\d+)>>")
_PRONOUN = re.compile(r"\b(she|he|her|him)\b", re.IGNORECASE)
_FEMALE = {name for name, they, _ in TRAINED.names if they == "she"}
_MARKS = {"{They}": "P", "{they}": "P", "{them}": "P", "{name}": "N", "{items}": "I", "{n}": "#"}


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return load()


@cache
def _drawn(shift: str) -> tuple[Problem, ...]:
    return tuple(problems(shift, count=_COUNT, seed=3))


def _skeleton(text: str, name: str, items: str) -> str:
    """A sentence without what a story fills in."""
    text = re.sub(r"\d+", "#", text.replace(name, "N").replace(f" {items}", " I"))
    return _PRONOUN.sub("P", text)


def _trained_skeletons() -> set[str]:
    listed = [
        *TRAINED.starts,
        *TRAINED.questions,
        *(t for texts in TRAINED.sentences.values() for t in texts),
    ]
    found = set()
    for text in listed:
        for field, mark in _MARKS.items():
            text = text.replace(field, mark)
        found.add(text)
    return found


def _changes(problem: Problem) -> set[str]:
    """What of a problem lies outside the trained distribution, read off its text and chain alone."""
    question = problem.question
    name = question.split()[0]
    items = re.search(r"How many (\w+)", question).group(1)  # type: ignore[union-attr]
    if items == "does":
        items = re.search(r"\d+ (\w+)", question).group(1)  # type: ignore[union-attr]
    steps = [_STEP.fullmatch(step).groups() for step in problem.steps]  # type: ignore[union-attr]
    added = [int(operand) for _, operation, operand, _ in steps if operation in "+-"]
    sentences = re.findall(r"[^.?]+[.?]", question)
    wordings = {_skeleton(sentence.strip(), name, items) for sentence in sentences}
    pronouns = {word.lower() for word in _PRONOUN.findall(question)}
    own = {"she", "her"} if name in _FEMALE else {"he", "him"}
    outside = {
        "longer": len(steps) == 7,
        "longest": len(steps) == 8,
        "operands": any(not 1 <= value <= 9 for value in added),
        "starts": not 2 <= int(steps[0][0]) <= 30,
        "templates": bool(wordings - _trained_skeletons()),
        "items": items not in TRAINED.items,
        "pronouns": bool(pronouns - own),
    }
    assert len(steps) in (5, 7, 8)
    return {what for what, found in outside.items() if found}


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_changes_what_it_says_and_nothing_else(shift: str) -> None:
    for problem in _drawn(shift):
        assert _changes(problem) == ({shift} - {"none"}), problem.question


def test_a_new_wording_is_new_in_every_sentence() -> None:
    for problem in _drawn("templates"):
        name, items = problem.question.split()[0], re.search(r"\d+ (\w+)", problem.question).group(1)  # type: ignore[union-attr]
        for sentence in re.findall(r"[^.?]+[.?]", problem.question):
            assert _skeleton(sentence.strip(), name, items) not in _trained_skeletons()


@pytest.mark.parametrize("shift", SHIFTS)
def test_golds_are_what_the_story_comes_to(shift: str) -> None:
    for problem in _drawn(shift):
        numbers = [int(found) for found in re.findall(r"\d+", problem.question)]
        value = numbers[0]
        assert len(numbers) == len(problem.steps) + 1
        for told, step in zip(numbers[1:], problem.steps, strict=True):
            before, operation, operand, after = _STEP.fullmatch(step).groups()  # type: ignore[union-attr]
            assert (int(before), int(operand)) == (value, told)
            results = {"+": value + told, "-": value - told, "*": value * told, "/": value / told}
            assert results[operation] == int(after)
            value = int(after)
        assert problem.answer == str(value)
        assert 1 <= value <= 1999


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_shipped_tokenizer_reads_every_question(shift: str, model: LatentModel) -> None:
    for problem in _drawn(shift):
        assert model.unknown_words(problem.question) == []
        model.encode(problem.question)


@pytest.mark.parametrize("shift", SHIFTS)
def test_no_question_is_of_the_training_split(shift: str) -> None:
    assert {split_of(problem.question) for problem in _drawn(shift)} == {"test"}


@pytest.mark.parametrize("shift", SHIFTS)
def test_problems_differ_and_the_first_of_a_longer_list_are_the_shorter_one(shift: str) -> None:
    drawn = _drawn(shift)
    assert len({problem.question for problem in drawn}) == len({problem.id for problem in drawn}) == _COUNT
    assert tuple(problems(shift, count=10, seed=3)) == drawn[:10]
    assert problems(shift, count=10, seed=4) != list(drawn[:10])


def test_without_a_shift_the_problems_are_those_of_the_generator() -> None:
    pairs = zip(_drawn("none"), generate(_COUNT, split="test", steps=(5, 5), seed=3), strict=True)
    # The generator draws the number of steps as well, so the two streams differ: the distribution is the same.
    for mine, other in pairs:
        assert _changes(mine) == _changes(other) == set()


def test_an_item_is_never_divided_into_itself() -> None:
    for problem in _drawn("items"):
        items = re.search(r"How many (\w+)", problem.question).group(1)  # type: ignore[union-attr]
        assert f"equal {items}" not in problem.question


@pytest.mark.parametrize(("shift", "count", "named"), [("larger", 5, "shift"), ("none", 0, "count")])
def test_a_bad_argument_is_named(shift: str, count: int, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: got"):
        problems(shift, count=count, seed=0)
