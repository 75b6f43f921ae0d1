"""score_and_prune: scores, the order of rows, ties, NaN, empty questions."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, HIDDEN, ROWS, score_and_prune_case

from latent_ext.ops import score_and_prune, score_and_prune_reference
from latent_ext.ops.tolerances import assert_close


def survivors_of(total: list[float], offsets: list[int], keep: int) -> list[list[int]]:
    """What the op keeps where `total` are the cumulative scores and every step scores zero."""
    rows = len(total)
    arguments = (
        torch.zeros(rows, 4), torch.ones(4), None, torch.tensor(total), torch.tensor(offsets), keep,
    )  # fmt: skip
    expected = score_and_prune_reference(*arguments)[2]
    actual = score_and_prune(*arguments)[2]
    assert torch.equal(actual, expected)
    return actual.tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("rows", ROWS)
def test_agrees_with_the_reference(
    generator: torch.Generator, rows: int, hidden: int, bias: bool, dtype: torch.dtype
) -> None:
    case = score_and_prune_case(generator, rows, hidden, dtype, bias=bias)
    step_score, total, survivors = case.run()
    expected_score, expected_total, _ = case.run_reference()
    assert_close(step_score, expected_score, "score", storage=dtype)
    assert_close(total, expected_total, "score", storage=dtype)
    assert torch.equal(total, case.arguments["cumulative"] + step_score)
    # Rounding may swap near equals, so the order is checked against the op's own totals.
    zero = case.with_arguments(hidden=torch.zeros_like(case.arguments["hidden"]), bias=None, cumulative=total)
    assert torch.equal(survivors, zero.run_reference()[2])


@pytest.mark.parametrize("keep", [0, 1, 2, 16, 64, 300])
def test_many_rows_are_ordered_whatever_is_kept(generator: torch.Generator, keep: int) -> None:
    case = score_and_prune_case(generator, 256, 8, questions=3, keep=keep)
    cumulative = torch.randint(-9, 9, (256,), generator=generator).float()  # many ties
    case = case.with_arguments(hidden=torch.zeros(256, 8), bias=None, cumulative=cumulative)
    assert torch.equal(case.run()[2], case.run_reference()[2])


def test_the_best_comes_first() -> None:
    assert survivors_of([1.0, 3.0, 2.0, 5.0, 4.0], [0, 3, 5], 2) == [[1, 2], [3, 4]]


def test_ties_go_to_the_smaller_row() -> None:
    assert survivors_of([2.0, 1.0, 2.0, 2.0], [0, 4], 3) == [[0, 2, 3]]
    assert survivors_of([-0.0, 0.0, -0.0], [0, 3], 3) == [[0, 1, 2]]


def test_nan_comes_after_minus_infinity() -> None:
    nan, inf = float("nan"), float("inf")
    assert survivors_of([nan, -inf, 0.0, inf, nan, -inf], [0, 6], 6) == [[3, 2, 1, 5, 0, 4]]
    assert survivors_of([nan, nan], [0, 2], 1) == [[0]]
    assert survivors_of([-nan, 1.0], [0, 2], 2) == [[1, 0]]


def test_short_and_empty_questions_are_padded() -> None:
    assert survivors_of([1.0, 2.0, 3.0], [0, 0, 1, 1, 3, 3], 2) == [
        [-1, -1],
        [0, -1],
        [-1, -1],
        [2, 1],
        [-1, -1],
    ]


def test_no_questions_and_no_rows_are_allowed(generator: torch.Generator) -> None:
    case = score_and_prune_case(generator, 0).with_arguments(question_offsets=torch.tensor([0]))
    step_score, total, survivors = case.run()
    assert (step_score.shape, total.shape, survivors.shape) == ((0,), (0,), (0, 2))


def test_nan_stays_in_its_row(generator: torch.Generator) -> None:
    case = score_and_prune_case(generator, 7, questions=1, keep=7)
    hidden = case.arguments["hidden"].clone()
    hidden[3, 5] = torch.nan
    broken, clean = case.with_arguments(hidden=hidden).run(), case.run()
    others = torch.arange(7) != 3
    assert broken[1].isnan().tolist() == (~others).tolist()
    assert torch.equal(broken[1][others], clean[1][others])
    assert broken[2][0, -1] == 3


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"hidden": torch.zeros(7, 63, dtype=torch.float64)}, TypeError, "hidden"),
        ({"hidden": torch.zeros(63)}, ValueError, "hidden"),
        ({"hidden": torch.zeros(7, 0)}, ValueError, "hidden"),
        ({"weight": torch.zeros(1, 63)}, ValueError, "weight"),
        ({"weight": torch.zeros(63, dtype=torch.bfloat16)}, TypeError, "weight"),
        ({"weight": torch.zeros(63, device="meta")}, ValueError, "weight"),
        ({"bias": torch.zeros(2)}, ValueError, "bias"),
        ({"cumulative": torch.zeros(7, dtype=torch.bfloat16)}, TypeError, "cumulative"),
        ({"cumulative": torch.zeros(6)}, ValueError, "cumulative"),
        ({"question_offsets": torch.tensor([0.0, 7.0])}, TypeError, "question_offsets"),
        ({"question_offsets": torch.tensor([[0, 7]])}, ValueError, "question_offsets"),
        ({"question_offsets": torch.zeros(0, dtype=torch.int64)}, ValueError, "question_offsets"),
        ({"question_offsets": torch.tensor([1, 7])}, (ValueError, RuntimeError), "question_offsets"),
        ({"question_offsets": torch.tensor([0, 6])}, (ValueError, RuntimeError), "question_offsets"),
        ({"question_offsets": torch.tensor([0, 8])}, (ValueError, RuntimeError), "question_offsets"),
        ({"question_offsets": torch.tensor([0, 5, 4, 7])}, (ValueError, RuntimeError), "question_offsets"),
        ({"question_offsets": torch.tensor([0, -1, 7])}, (ValueError, RuntimeError), "question_offsets"),
        ({"keep": -1}, ValueError, "keep"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    generator: torch.Generator, changes: dict, error: type[Exception], name: str
) -> None:
    case = score_and_prune_case(generator).with_arguments(**changes)
    for function in (score_and_prune, score_and_prune_reference):
        with pytest.raises(error, match=name):
            case.run(function)
