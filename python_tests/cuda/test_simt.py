"""The CUDA kernels, run on the host by the SIMT shim: the references' numbers, whatever the schedule."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from kernel_agreement import assert_agrees, survivors_of
from op_cases import (
    DTYPES,
    OP_NAMES,
    OpCase,
    dropout_add_norm_case,
    next_thought_case,
    next_token_case,
    prefix_decode_attention_case,
    random_case,
    score_and_prune_case,
)
from simt_calls import run_on_shim, same_bits, to_array

from latent_ext.ops import philox, sites

HIDDEN = (1, 7, 63, 96, 768, 1023)
ORDERS = range(6)
BLOCK_SIZES = (32, 64, 96, 256, 512)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("name", ["dropout_add_norm", "next_thought", "score_and_prune", "next_token"])
def test_agrees_with_the_reference(
    simt: ModuleType, generator: torch.Generator, name: str, norm: str, hidden: int, dtype: torch.dtype
) -> None:
    case = random_case(name, generator, rows=3, hidden=hidden, dtype=dtype, norm=norm, questions=2)
    assert_agrees(case, run_on_shim(simt, case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OP_NAMES)
@pytest.mark.parametrize("rows", [0, 1, 17])
def test_any_number_of_rows_agrees_with_the_reference(
    simt: ModuleType, generator: torch.Generator, name: str, rows: int, dtype: torch.dtype
) -> None:
    case = random_case(name, generator, rows=rows, hidden=40, dtype=dtype)
    assert_agrees(case, run_on_shim(simt, case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", ["none", "absolute", "relative", "head"])
def test_every_kind_of_noise_agrees_with_the_reference(
    simt: ModuleType, generator: torch.Generator, noise: str, dtype: torch.dtype
) -> None:
    for steps, step in ((None, 0), (3, 2)):
        case = next_thought_case(generator, hidden=65, dtype=dtype, noise=noise, steps=steps, step=step)
        assert_agrees(case, run_on_shim(simt, case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "max_prompt"),
    [(1, 1, 1, 3), (4, 2, 16, 9), (12, 12, 64, 80), (20, 1, 24, 5), (2, 1, 7, 300)],
)
def test_attention_shapes_agree_with_the_reference(
    simt: ModuleType,
    generator: torch.Generator,
    heads: int,
    kv_heads: int,
    head_dim: int,
    max_prompt: int,
    dtype: torch.dtype,
) -> None:
    case = prefix_decode_attention_case(generator, 3, heads, kv_heads, head_dim, dtype, max_prompt=max_prompt)
    assert_agrees(case, run_on_shim(simt, case))


@pytest.mark.parametrize("vocab", [1, 31, 256, 257, 1100])
def test_vocabularies_of_any_size_agree_with_the_reference(
    simt: ModuleType, generator: torch.Generator, vocab: int
) -> None:
    for temperature in (0.0, 0.7):
        case = next_token_case(generator, 9, 24, vocab=vocab, temperature=temperature)
        assert_agrees(case, run_on_shim(simt, case))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_gaussian_values_are_the_bits_of_the_reference(
    simt: ModuleType, generator: torch.Generator, hidden: int
) -> None:
    case = next_thought_case(generator, hidden=hidden, norm="none", noise="absolute", steps=None)
    case = case.with_arguments(hidden=torch.zeros(5, hidden), scale=1.0, sigma=1.0)
    a = case.arguments
    expected = philox.normals(a["seed"], a["keys"], a["positions"], sites.NOISE, hidden)
    assert same_bits(run_on_shim(simt, case), [expected])


@pytest.mark.parametrize("p", [0.0, 2.0**-32, 0.1, 0.5, 1.0 - 2.0**-32])
def test_masks_are_the_bits_of_the_reference(simt: ModuleType, generator: torch.Generator, p: float) -> None:
    case = dropout_add_norm_case(generator, hidden=301, norm="none", p=p)
    assert same_bits(run_on_shim(simt, case), case.run_reference())


def test_a_gumbel_draw_is_the_reference_draw(simt: ModuleType, generator: torch.Generator) -> None:
    case = next_token_case(generator, 9, 1, vocab=700, norm="none", temperature=1.0)
    case = case.with_arguments(hidden=torch.zeros(9, 1))  # equal logits: the Gumbel value alone decides
    assert torch.equal(run_on_shim(simt, case)[0], case.run_reference()[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OP_NAMES)
def test_the_schedule_changes_no_bit(
    simt: ModuleType, generator: torch.Generator, name: str, dtype: torch.dtype
) -> None:
    case = random_case(name, generator, rows=4, hidden=530, dtype=dtype, heads=6, head_dim=40)
    expected = run_on_shim(simt, case)
    for order in ORDERS:
        assert same_bits(run_on_shim(simt, case, order=order + 1), expected), f"order {order + 1}"


@pytest.mark.parametrize("threads", BLOCK_SIZES)
@pytest.mark.parametrize(
    "name", ["dropout_add_norm", "next_thought", "prefix_decode_attention", "score_and_prune"]
)
def test_every_block_size_agrees_with_the_reference(
    simt: ModuleType, generator: torch.Generator, name: str, threads: int
) -> None:
    case = random_case(name, generator, rows=5, hidden=530, heads=6, head_dim=40)
    assert_agrees(case, run_on_shim(simt, case, threads=threads, order=threads))


@pytest.mark.parametrize("name", ["prefix_decode_attention", "score_and_prune"])
def test_the_block_size_changes_no_bit_where_a_block_shares_no_sum(
    simt: ModuleType, generator: torch.Generator, name: str
) -> None:
    case = random_case(name, generator, rows=5, hidden=530, heads=6, head_dim=40)
    expected = run_on_shim(simt, case)
    for threads in BLOCK_SIZES:
        assert same_bits(run_on_shim(simt, case, threads=threads), expected), f"{threads} threads"


def test_rows_that_share_a_block_of_the_vocabulary_do_not_change_each_other(
    simt: ModuleType, generator: torch.Generator
) -> None:
    case = next_token_case(generator, 11, 70, vocab=300)
    expected = run_on_shim(simt, case)
    for rows_per_block in (1, 3, 8):
        assert same_bits(run_on_shim(simt, case, rows_per_block=rows_per_block), expected)


@pytest.mark.parametrize(
    "name", ["dropout_add_norm", "next_thought", "prefix_decode_attention", "next_token"]
)
def test_a_row_alone_has_the_bits_it_has_among_others(
    simt: ModuleType, generator: torch.Generator, name: str
) -> None:
    case = random_case(name, generator, rows=6, hidden=70, shared=False)
    results = run_on_shim(simt, case)
    for row in (0, 4):
        alone = run_on_shim(simt, case.select(torch.tensor([row])))
        assert same_bits([alone[0]], [results[0][[row]]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["dropout_add_norm", "next_thought", "score_and_prune", "next_token"])
def test_unaligned_storage_changes_no_bit(
    simt: ModuleType, generator: torch.Generator, name: str, dtype: torch.dtype
) -> None:
    case = random_case(name, generator, hidden=64, dtype=dtype)
    first = "branch" if name == "dropout_add_norm" else "hidden"
    aligned = case.arguments[first]
    storage = torch.empty(aligned.numel() + 1, dtype=dtype)
    unaligned = storage[1:].view(aligned.shape).copy_(aligned)
    assert unaligned.data_ptr() % 16 != 0
    moved = case.with_arguments(**{first: unaligned})
    assert same_bits(run_on_shim(simt, moved), run_on_shim(simt, case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_longer_than_shared_memory_agrees_with_the_reference(
    simt: ModuleType, generator: torch.Generator, dtype: torch.dtype
) -> None:
    case = dropout_add_norm_case(generator, rows=2, hidden=26000, dtype=dtype)
    assert_agrees(case, run_on_shim(simt, case))


def scored(totals: list[float], offsets: list[int], keep: int) -> OpCase:
    """Rows whose totals are `totals`: the head sees zeros."""
    case = score_and_prune_case(torch.Generator(), rows=len(totals), hidden=4, bias=False, keep=keep)
    return case.with_arguments(
        hidden=torch.zeros(len(totals), 4),
        cumulative=torch.tensor(totals),
        question_offsets=torch.tensor(offsets),
    )


def test_ties_go_to_the_smaller_row_and_nan_comes_last(simt: ModuleType) -> None:
    nan, inf = float("nan"), float("inf")
    totals = [nan, 1.0, -inf, 1.0, inf, 0.0, -0.0, nan]
    for order in ORDERS:
        _, _, survivors = run_on_shim(simt, scored(totals, [0, 8], 10), order=order)
        assert survivors.tolist() == [[4, 1, 3, 5, 6, 2, 0, 7, -1, -1]]


def test_survivors_of_many_rows_follow_from_the_totals(simt: ModuleType, generator: torch.Generator) -> None:
    totals = torch.randint(-20, 20, (500,), generator=generator).float()
    totals[torch.rand(500, generator=generator) < 0.2] = float("nan")
    case = scored(totals.tolist(), [0, 0, 130, 131, 500], 40)
    _, total, survivors = run_on_shim(simt, case)
    assert torch.equal(survivors, survivors_of(case, total))


def test_wrong_question_offsets_stay_inside_the_rows(simt: ModuleType) -> None:
    case = scored([3.0, 1.0, 2.0, 5.0], [1, 99, -7], 2)
    step_score, total, survivors = run_on_shim(simt, case)
    assert survivors.tolist() == [[3, 2], [-1, -1]]
    assert total.isnan().tolist() == step_score.isnan().tolist() == [True, False, False, False]


@pytest.mark.parametrize(("name", "value"), [("prompt_index", 2), ("suffix_len", -1), ("suffix_len", 6)])
def test_a_wrong_index_of_attention_gives_nan_in_its_row_only(
    simt: ModuleType, generator: torch.Generator, name: str, value: int
) -> None:
    case = prefix_decode_attention_case(generator, shared=False, prompts=2)
    right = run_on_shim(simt, case)[0]
    index = case.arguments[name].clone()
    index[1] = value if name == "suffix_len" else case.arguments["prefix_key"].shape[0]
    wrong = run_on_shim(simt, case.with_arguments(**{name: index}))[0]
    assert wrong[1].isnan().all()
    assert same_bits([wrong[[0, 2, 3, 4]]], [right[[0, 2, 3, 4]]])


def test_a_nan_logit_is_never_chosen_and_shows_in_the_probability(simt: ModuleType) -> None:
    nan, inf = float("nan"), float("inf")
    rows = [[nan, 1.0, 3.0], [-inf, -inf, -inf], [nan, nan, nan], [0.0, 2.0, 2.0], [nan, -inf, nan]]
    head = torch.tensor(rows).T.contiguous()
    for row in range(len(rows)):
        hidden = to_array(torch.ones(1, 1))
        column = to_array(head[:, [row]].contiguous())
        zero = np.zeros(1, dtype=np.int64)
        token, logprob = simt.next_token(hidden, None, None, column, zero, zero, 0, 1e-5, "none", 0.0)
        assert token[0] == [2, 0, 0, 1, 1][row]
        assert np.isnan(logprob[0]) == (row != 3)
