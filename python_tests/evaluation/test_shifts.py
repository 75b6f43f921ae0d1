"""Each shift changes what it says and nothing else; its golds are right, and the shipped tokenizer reads it."""

from __future__ import annotations

import re

import pytest
from transformers import AutoTokenizer

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.evaluation.arithmetic import MAX_VALUE, WORDING, Problem, generate, split_of
from latent_ext.evaluation.shifts import SHIFTS, STEPS, problems

COUNT = 400
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
NAMES = [name for name, _, _ in WORDING.names]
HOLDERS = ("boxes", "piles")


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Problem]]:
    return {shift: problems(shift, count=COUNT, seed=5) for shift in SHIFTS}


def counted(problem: Problem) -> str:
    """What the first sentence counts."""
    return re.match(r"\w+ [a-z ]+ \d+ (\w+)\.", problem.question).group(1)


def sentences(problem: Problem) -> list[str]:
    """Sentences with their symbols and numbers taken out."""
    text = problem.question.replace(f" {counted(problem)}", " ITEMS")
    text = re.sub("|".join(NAMES), "NAME", re.sub(r"\d+", "N", text))
    text = re.sub(r"\b([Hh]im|[Hh]er)\b", "THEM", re.sub(r"\b([Ss]?[Hh]e)\b", "THEY", text))
    return re.findall(r"[^.?]+[.?]", text)


def person(problem: Problem) -> set[tuple[str, str]]:
    """The name beside each pronoun that the story uses for it."""
    name = problem.question.split()[0]
    return {(name, word.lower()) for word in re.findall(r"\b(?:she|he|him|her)\b", problem.question, re.I)}


def small_numbers(problem: Problem) -> bool:
    """Whether start and addends are those of training."""
    numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
    addends = [
        int(step[1])
        for step in (re.split(r"[-+]", s.partition("=")[0]) for s in problem.steps)
        if len(step) == 2
    ]
    return numbers[0] <= 30 and all(addend <= 9 for addend in addends)


def features(found: list[Problem]) -> dict[str, set]:
    """What a story can differ in, each as the set of what occurs."""
    return {
        "steps": {problem.n_steps for problem in found},
        "numbers": {small_numbers(problem) for problem in found},
        "sentences": {text.strip() for problem in found for text in sentences(problem)},
        "items": {counted(problem) for problem in found},
        "persons": {pair for problem in found for pair in person(problem)},
        "factors": {
            int(s[2]) for p in found for s in map(re.compile(r"<<(\d+)[*/](\d+)").match, p.steps) if s
        },
    }


CHANGED = {
    "none": set(), "longer": {"steps"}, "longest": {"steps"}, "larger": {"numbers"}, "wording": {"sentences"},
    "items": {"items"}, "names": {"persons"},
}  # fmt: skip


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_changes_what_it_says_and_nothing_else(drawn: dict[str, list[Problem]], shift: str) -> None:
    training = features(generate(6000, split="train", steps=(STEPS, STEPS), seed=9))
    for name, occurring in features(drawn[shift]).items():
        if name in CHANGED[shift]:
            assert occurring.isdisjoint(training[name]), name
        else:
            assert occurring <= training[name], name


@pytest.mark.parametrize("shift", SHIFTS)
def test_golds_are_what_the_story_tells(drawn: dict[str, list[Problem]], shift: str) -> None:
    for problem in drawn[shift]:
        told = [int(number) for number in re.findall(r"\d+", problem.question)]
        value = told[0]
        for operand, step in zip(told[1:], problem.steps, strict=True):
            left, operation, right, result = re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step).groups()
            assert (int(left), int(right)) == (value, operand)
            assert operation != "/" or value % operand == 0
            value = OPERATIONS[operation](value, operand)
            assert value == int(result)
            assert 1 <= value <= MAX_VALUE
        assert problem.answer == str(value)


@pytest.mark.parametrize("shift", SHIFTS)
def test_every_operation_occurs_in_every_shift(drawn: dict[str, list[Problem]], shift: str) -> None:
    chains = "".join(step for problem in drawn[shift] for step in problem.steps)
    assert all(chains.count(operation) > COUNT / 5 for operation in OPERATIONS)


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_shipped_tokenizer_reads_every_question(drawn: dict[str, list[Problem]], shift: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_GENERATOR)
    for problem in drawn[shift]:
        ids = tokenizer(problem.question).input_ids
        assert tokenizer.unk_token_id not in ids, problem.question
        assert len(ids) <= 192 - 6 - 16


def test_no_problem_of_a_shift_is_a_training_problem_or_occurs_twice(drawn: dict[str, list[Problem]]) -> None:
    everything = [problem.question for found in drawn.values() for problem in found]
    assert all(split_of(question) == "test" for question in everything)
    assert len(set(everything)) == len(everything)


def test_what_is_counted_is_never_put_into_its_own_kind(drawn: dict[str, list[Problem]]) -> None:
    for problem in drawn["items"]:
        other = HOLDERS[1 - HOLDERS.index(counted(problem))]
        assert f"equal {counted(problem)}" not in problem.question
        assert problem.question.count("equal") == problem.question.count(f"equal {other}")


def test_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    assert problems("larger", count=20, seed=3)[:7] == problems("larger", count=7, seed=3)
    assert problems("larger", count=20, seed=4) != problems("larger", count=20, seed=3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("shift", {"shift": "harder"}),
        ("count", {"count": 0}),
        ("count", {"count": True}),
        ("seed", {"seed": "1"}),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got"):
        problems(**{"shift": "none", "count": 1, **settings})
