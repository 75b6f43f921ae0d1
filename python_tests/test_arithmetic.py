"""The word problems of the shipped model, and its tokenizer."""

from __future__ import annotations

import json
import re

import pytest
from transformers import AutoTokenizer

from latent_ext.assets import SHIPPED_GENERATOR, SHIPPED_PROBLEMS
from latent_ext.evaluation.arithmetic import (
    MAX_VALUE,
    SPLITS,
    Problem,
    generate,
    split_of,
    write_problems,
)

SHIPPED = ("valid", "test_2_5", "test_5", "test_6")


def evaluate_chain(problem: Problem) -> int:
    """The value the story starts with, put through the chain step by step."""
    value = int(re.search(r"\d+", problem.question).group())
    for step in problem.steps:
        left, operation, right, result = re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step).groups()
        assert int(left) == value
        quotient, remainder = divmod(value, int(right))
        assert operation != "/" or remainder == 0
        value = {"+": value + int(right), "-": value - int(right), "*": value * int(right), "/": quotient}[
            operation
        ]
        assert int(result) == value
    return value


@pytest.fixture(scope="module")
def many() -> list[Problem]:
    return generate(20_000, split="train", steps=(2, 6), seed=3)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SHIPPED_GENERATOR)


def test_every_chain_evaluates_to_its_answer(many):
    assert all(evaluate_chain(problem) == int(problem.answer) for problem in many)


def test_the_numbers_of_the_story_are_the_operands_of_the_chain(many):
    for problem in many[:2000]:
        numbers = [int(n) for n in re.findall(r"\d+", problem.question)]
        operands = [int(re.search(r"[-+*/](\d+)=", step).group(1)) for step in problem.steps]
        assert numbers[1:] == operands


def test_answers_spread_over_more_than_a_thousand_values_of_one_to_four_digits(many):
    answers = {problem.answer for problem in many}
    assert len(answers) >= 1000
    assert {len(answer) for answer in answers} == {1, 2, 3, 4}
    assert all(1 <= int(answer) <= MAX_VALUE for answer in answers)


@pytest.mark.parametrize("n_steps", [5, 6])
def test_no_answer_of_long_problems_dominates(n_steps):
    answers = [p.answer for p in generate(4000, split="train", steps=(n_steps, n_steps), seed=1)]
    assert max(answers.count(answer) for answer in set(answers)) < 0.05 * len(answers)
    assert len(set(answers)) >= 800


def test_numbers_of_steps_stay_within_the_range_and_all_occur(many):
    assert {problem.n_steps for problem in many} == {2, 3, 4, 5, 6}


def test_the_same_seed_gives_the_same_problems_and_a_shorter_run_its_beginning():
    long = generate(50, split="test", steps=(2, 5), seed=11)
    assert long == generate(50, split="test", steps=(2, 5), seed=11)
    assert long[:20] == generate(20, split="test", steps=(2, 5), seed=11)
    assert long != generate(50, split="test", steps=(2, 5), seed=12)


def test_no_question_appears_twice_in_one_run(many):
    assert len({problem.question for problem in many}) == len(many)
    assert len({problem.id for problem in many}) == len(many)


def test_splits_are_disjoint_whatever_the_seed():
    questions = {
        split: {p.question for seed in (1, 2) for p in generate(400, split=split, steps=(1, 3), seed=seed)}
        for split in SPLITS
    }
    for split, mine in questions.items():
        assert all(split_of(question) == split for question in mine)
        assert all(mine.isdisjoint(other) for name, other in questions.items() if name != split)


@pytest.mark.parametrize("steps", [(0, 3), (4, 3), (2, 7)])
def test_a_range_of_steps_outside_one_to_six_is_refused(steps):
    with pytest.raises(ValueError, match="steps must be"):
        generate(1, split="train", steps=steps, seed=0)


def test_an_unknown_split_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="train, valid, test"):
        generate(1, split="dev", seed=0)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="count"):
        generate(-1, split="train", seed=0)


def test_a_problem_survives_a_round_trip_through_its_json_line(many, tmp_path):
    write_problems(tmp_path / "some.jsonl", many[:10])
    lines = (tmp_path / "some.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Problem.from_json(line) for line in lines] == many[:10]
    assert json.loads(lines[0])["n_steps"] == many[0].n_steps


@pytest.mark.parametrize("line", ["no json", "[1]", '{"question": "How many?"}'])
def test_a_line_that_is_no_problem_is_refused(line):
    with pytest.raises(ValueError, match="question, steps, answer"):
        Problem.from_json(line)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_problems_belong_to_their_split_and_are_right(name):
    lines = (SHIPPED_PROBLEMS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    problems = [Problem.from_json(line) for line in lines]
    assert len(problems) == 500
    assert all(split_of(p.question) == name.partition("_")[0] for p in problems)
    assert all(evaluate_chain(p) == int(p.answer) for p in problems)


def test_decoding_the_tokens_of_a_problem_gives_its_text_back(many, tokenizer):
    for problem in many[:500]:
        text = (
            f"{problem.question}\n<|start-latent|>{''.join(problem.steps)}### {problem.answer}<|endoftext|>"
        )
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_latent_tokens_are_one_id_each_and_survive_skipping_special_tokens(tokenizer):
    for token in ("<|start-latent|>", "<|end-latent|>", "<|latent|>"):
        ids = tokenizer(token).input_ids
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == token


def test_an_answer_takes_one_token_per_digit_after_the_marker(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer("### 1204").input_ids) == ["### ", "1", "2", "0", "4"]
