"""prefix_decode_attention: shared and own prompts, ragged lengths, branching ancestry, cache writes."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, ROWS, prefix_decode_attention_case

from latent_ext.ops import prefix_decode_attention, prefix_decode_attention_reference
from latent_ext.ops.tolerances import assert_close, tolerance

HEADS = [(1, 1), (4, 4), (4, 2), (6, 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shared", [True, False], ids=["shared prompts", "own prompts"])
@pytest.mark.parametrize("head_dim", [1, 7, 16, 64, 100])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("rows", ROWS)
def test_agrees_with_the_reference(
    generator: torch.Generator,
    rows: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    shared: bool,
    dtype: torch.dtype,
) -> None:
    case = prefix_decode_attention_case(generator, rows, heads, kv_heads, head_dim, dtype, shared=shared)
    output, suffix_key, suffix_value = case.run()
    expected, expected_key, expected_value = case.run_reference()
    assert output.isfinite().all()
    assert_close(output, expected, "attention")
    assert_close(suffix_key, expected_key, "rng")
    assert_close(suffix_value, expected_value, "rng")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("max_prompt", "max_suffix"), [(0, 1), (1, 1), (131, 1), (0, 40), (300, 33)])
def test_short_and_long_caches_agree_with_the_reference(
    generator: torch.Generator, max_prompt: int, max_suffix: int, dtype: torch.dtype
) -> None:
    case = prefix_decode_attention_case(
        generator, 9, dtype=dtype, head_dim=32, prompts=3, max_prompt=max_prompt, max_suffix=max_suffix
    )
    assert_close(case.run()[0], case.run_reference()[0], "attention")


def test_agrees_with_the_attention_of_pytorch(generator: torch.Generator) -> None:
    case = prefix_decode_attention_case(generator, 1, 4, 4, 16, prompts=1, max_prompt=12, max_suffix=1)
    a = case.arguments
    length = int(a["prompt_len"])
    keys = torch.cat([a["prefix_key"][0, :, :length], a["key"][0].unsqueeze(1)], dim=1)
    values = torch.cat([a["prefix_value"][0, :, :length], a["value"][0].unsqueeze(1)], dim=1)
    expected = torch.nn.functional.scaled_dot_product_attention(a["query"][0].unsqueeze(1), keys, values)
    assert_close(case.run()[0], expected.squeeze(1).unsqueeze(0), "attention")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_the_new_position_of_each_row_is_written(generator: torch.Generator, dtype: torch.dtype) -> None:
    case = prefix_decode_attention_case(generator, 17, dtype=dtype)
    a = case.arguments
    for written, before, new in zip(
        case.run()[1:], (a["suffix_key"], a["suffix_value"]), (a["key"], a["value"]), strict=True
    ):
        rows = torch.arange(17)
        slots = a["ancestry"][rows, a["suffix_len"]]
        assert torch.equal(written[slots, :, a["suffix_len"]], new)
        rest = written.clone()
        rest[slots, :, a["suffix_len"]] = before[slots, :, a["suffix_len"]]
        assert torch.equal(rest.nan_to_num(nan=9e9), before.nan_to_num(nan=9e9))


def test_a_beam_reads_the_cache_of_its_ancestors(generator: torch.Generator) -> None:
    """Two steps of two beams, of which both continue the first: as if it had been copied."""
    first = prefix_decode_attention_case(generator, 2, max_suffix=2, prompts=1)
    lengths = torch.zeros(2, dtype=torch.int64)
    start = first.with_arguments(suffix_len=lengths, ancestry=torch.tensor([[0, 0], [1, 1]]))
    _, suffix_key, suffix_value = start.run()
    second = prefix_decode_attention_case(generator, 2, max_suffix=2, prompts=1).with_arguments(
        **{
            name: start.arguments[name]
            for name in ("prefix_key", "prefix_value", "prompt_index", "prompt_len")
        },
        suffix_len=lengths + 1,
        suffix_key=suffix_key,
        suffix_value=suffix_value,
    )
    shared = second.with_arguments(ancestry=torch.tensor([[0, 0], [0, 1]])).run()[0]
    copied_key, copied_value = suffix_key.clone(), suffix_value.clone()
    copied_key[1], copied_value[1] = suffix_key[0], suffix_value[0]
    copied = second.with_arguments(
        ancestry=torch.tensor([[0, 0], [1, 1]]), suffix_key=copied_key, suffix_value=copied_value
    ).run()[0]
    assert torch.equal(shared, copied)


def test_rows_with_the_same_prompt_get_the_same_result_with_own_copies(generator: torch.Generator) -> None:
    case = prefix_decode_attention_case(generator, 7, prompts=2)
    a = case.arguments
    own = case.with_arguments(
        prefix_key=a["prefix_key"][a["prompt_index"]],
        prefix_value=a["prefix_value"][a["prompt_index"]],
        prompt_len=a["prompt_len"][a["prompt_index"]],
        prompt_index=torch.arange(7),
    )
    assert torch.equal(own.run()[0], case.run()[0])


def test_the_room_behind_a_prompt_and_a_suffix_does_not_matter(generator: torch.Generator) -> None:
    case = prefix_decode_attention_case(generator, 7)
    a = case.arguments
    wider = {
        name: torch.nn.functional.pad(a[name], (0, 0, 0, 5), value=torch.nan)
        for name in ("prefix_key", "prefix_value", "suffix_key", "suffix_value")
    }
    ancestry = torch.nn.functional.pad(a["ancestry"], (0, 5), value=-7)
    assert torch.equal(case.with_arguments(**wider, ancestry=ancestry).run()[0], case.run()[0])


def test_large_logits_do_not_overflow(generator: torch.Generator) -> None:
    case = prefix_decode_attention_case(generator, 7)
    case = case.with_arguments(query=case.arguments["query"] * 1e4)
    output, _, suffix_value = case.run()
    assert output.isfinite().all()
    # Logits of 1e5 are known to 1e-2, so weights are not; but a mean of values is no larger than the largest.
    largest = (
        torch.cat([suffix_value.flatten(), case.arguments["prefix_value"].flatten()]).nan_to_num().abs().max()
    )
    assert float(output.abs().max()) <= float(largest) * (1 + tolerance("attention", torch.float32).rtol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity_stay_in_their_row(
    generator: torch.Generator, value: float, name: str, dtype: torch.dtype
) -> None:
    case = prefix_decode_attention_case(generator, 5, dtype=dtype)
    broken_tensor = case.arguments[name].clone()
    broken_tensor[2, 0] = value
    broken = case.with_arguments(**{name: broken_tensor})
    output, clean = broken.run()[0], case.run()[0]
    assert torch.equal(output[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])
    assert not output[2].isfinite().all() or name == "key"  # a logit of -inf is a weight of zero
    if value != value:
        assert output[2].isnan().any()
        assert_close(output, broken.run_reference()[0], "attention")


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"query": torch.zeros(5, 4, 16, dtype=torch.float64)}, TypeError, "query"),
        ({"query": torch.zeros(5, 64)}, ValueError, "query"),
        ({"query": torch.zeros(5, 3, 16)}, ValueError, "key must have kv_heads that divide"),
        ({"key": torch.zeros(4, 2, 16)}, ValueError, "key"),
        ({"value": torch.zeros(5, 2, 16, dtype=torch.bfloat16)}, TypeError, "value"),
        ({"prefix_key": torch.zeros(2, 2, 9, 15)}, ValueError, "prefix_key"),
        ({"prefix_value": torch.zeros(2, 2, 8, 16)}, ValueError, "prefix_value"),
        ({"prompt_index": torch.zeros(5)}, TypeError, "prompt_index"),
        ({"prompt_index": torch.full((5,), 2)}, (ValueError, RuntimeError), "prompt_index"),
        ({"prompt_index": torch.full((5,), -1)}, (ValueError, RuntimeError), "prompt_index"),
        ({"prompt_len": torch.zeros(3, dtype=torch.int64)}, ValueError, "prompt_len"),
        ({"prompt_len": torch.tensor([0, 10])}, (ValueError, RuntimeError), "prompt_len"),
        ({"prompt_len": torch.tensor([-1, 0])}, (ValueError, RuntimeError), "prompt_len"),
        ({"suffix_key": torch.zeros(7, 1, 6, 16)}, ValueError, "suffix_key"),
        ({"suffix_value": torch.zeros(7, 2, 7, 16)}, ValueError, "suffix_value"),
        ({"suffix_value": torch.zeros(7, 2, 6, 16, device="meta")}, ValueError, "suffix_value"),
        ({"ancestry": torch.zeros(5, 5, dtype=torch.int64)}, ValueError, "ancestry"),
        ({"ancestry": torch.zeros(5, 6, dtype=torch.int32)}, TypeError, "ancestry"),
        ({"ancestry": torch.full((5, 6), 7)}, (ValueError, RuntimeError), "ancestry"),
        ({"ancestry": torch.full((5, 6), -1)}, (ValueError, RuntimeError), "ancestry"),
        (
            {
                "ancestry": torch.zeros(5, 6, dtype=torch.int64),
                "suffix_len": torch.zeros(5, dtype=torch.int64),
            },
            (ValueError, RuntimeError),
            "ancestry must give every row its own place",
        ),
        ({"scale": float("nan")}, ValueError, "scale"),
        ({"suffix_len": torch.full((5,), 6)}, (ValueError, RuntimeError), "suffix_len"),
        ({"suffix_len": torch.full((5,), -1)}, (ValueError, RuntimeError), "suffix_len"),
        ({"suffix_len": torch.zeros(4, dtype=torch.int64)}, ValueError, "suffix_len"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    generator: torch.Generator, changes: dict, error: type[Exception], name: str
) -> None:
    case = prefix_decode_attention_case(generator).with_arguments(**changes)
    for function in (prefix_decode_attention, prefix_decode_attention_reference):
        with pytest.raises(error, match=name):
            case.run(function)


@pytest.mark.parametrize("name", ["suffix_key", "suffix_value"])
def test_written_tensors_must_be_contiguous(generator: torch.Generator, name: str) -> None:
    arguments = prefix_decode_attention_case(generator).arguments
    arguments[name] = arguments[name].transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(ValueError, match=f"{name}.*contiguous"):
        prefix_decode_attention(**arguments)


def test_a_refused_call_writes_nothing(generator: torch.Generator) -> None:
    arguments = prefix_decode_attention_case(generator).arguments
    arguments["suffix_len"] = torch.tensor([0, 1, 2, 3, 6])
    before = arguments["suffix_key"].clone()
    with pytest.raises((ValueError, RuntimeError)):
        prefix_decode_attention(**arguments)
    assert torch.equal(arguments["suffix_key"].nan_to_num(nan=9e9), before.nan_to_num(nan=9e9))
