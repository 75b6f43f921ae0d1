"""The ops on packed models refuse what cannot be right in one sentence, and survive any bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import OpCase
from packed_cases import (
    VOCABULARY,
    cases_of_every_op,
    decode_answers_case,
    on_every_format_and_body,
    pack_linear_case,
    packed_model,
    read_prompts_case,
)
from torch import Generator, Tensor

from latent_ext import ops
from latent_ext.ops.packed_reference import unpack
from latent_ext.ops.sites import MAX_LAYERS


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


# Schemas and refusals


@pytest.mark.parametrize("name", ["pack_linear", "read_prompts", "latent_rollout", "decode_answers"])
def test_opcheck_passes(generator: Generator, name: str) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    cases = cases_of_every_op(generator, packed, reward, 4)
    cases["pack_linear"] = pack_linear_case(generator, "int8", 49, 7)
    op = getattr(torch.ops.latent_ext, name).default
    torch.library.opcheck(op, cases[name].schema_arguments(), test_utils=("test_schema", "test_faketensor"))


def test_bytes_that_are_not_uint8_are_refused_by_every_op(generator: Generator) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    for case in cases_of_every_op(generator, packed, reward, 2).values():
        for run in (case.with_arguments(model=torch.zeros(64)).run, case.with_arguments(model=None).run):
            with pytest.raises(TypeError, match="model must be"):
                run()


def test_an_input_that_requires_grad_is_refused_in_grad_mode(generator: Generator) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    cases = cases_of_every_op(generator, packed, reward, 2)
    cases["pack_linear"] = pack_linear_case(generator, "fp32", 5, 3)
    for name, case in cases.items():
        floating = [n for n, a in case.arguments.items() if isinstance(a, Tensor) and a.is_floating_point()]
        for argument in set(floating) - {"panels"}:
            arguments = case.arguments | {argument: case.arguments[argument].clone().requires_grad_()}
            for function in (getattr(ops, name), getattr(ops, name + "_reference")):
                with torch.enable_grad(), pytest.raises(RuntimeError, match=f"no gradient.*{argument}"):
                    function(**arguments)


@pytest.mark.parametrize("name", ["read_prompts", "latent_rollout", "decode_answers"])
def test_every_tensor_has_one_dtype_and_shape(generator: Generator, name: str) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    case = cases_of_every_op(generator, packed, reward, 4)[name]
    op = getattr(torch.ops.latent_ext, name).default
    for argument in [n for n, a in case.arguments.items() if isinstance(a, Tensor)]:
        tensor = case.arguments[argument]
        other = torch.float64 if tensor.is_floating_point() else torch.int32
        wrong = [
            tensor.to(other),
            torch.cat([tensor, tensor], dim=-1),
            tensor.unsqueeze(0).expand(2, *tensor.shape),
        ]
        if tensor.numel() > 1:
            wrong.append(tensor.repeat_interleave(2, dim=-1)[..., ::2])
        for value in wrong:
            with pytest.raises(RuntimeError, match=r"must|is not a packed model"):
                op(*case.with_arguments(**{argument: value}).schema_arguments())


BAD_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("read_prompts", {"tokens": [VOCABULARY]}, r"tokens must be in \[0, 131\), got 131"),
    ("read_prompts", {"tokens": [-1]}, r"tokens must be in \[0, 131\), got -1"),
    ("read_prompts", {"offsets": [1]}, "offsets must run from 0 to"),
    ("read_prompts", {"offsets": [0, 9, 1]}, "offsets must give prompt 1 from 1 to"),
    ("read_prompts", {"offsets": [0, 1 << 62]}, "offsets must give prompt 0 from 1 to"),
    ("read_prompts", {"offsets": [0, -(1 << 63)]}, "offsets must give prompt 0 from 1 to"),
    ("read_prompts", {"p": 1.0}, r"p must be in \[0, 1\), got 1"),
    ("read_prompts", {"p": float("nan")}, r"p must be in \[0, 1\)"),
    ("read_prompts", {"svp": -1.0}, "svp must be finite and not negative, got -1"),
    ("latent_rollout", {"svp": float("inf")}, "svp must be finite and not negative, got inf"),
    ("latent_rollout", {"questions": 0}, "questions must divide the rows of first, got 0 for 4 rows"),
    ("latent_rollout", {"questions": 3}, "questions must divide the rows of first, got 3 for 4 rows"),
    ("latent_rollout", {"prompt_index": [3]}, r"prompt_index must be in \[0, 3\), got 3"),
    ("latent_rollout", {"prompt_len": [99]}, "prompt_len must be in"),
    ("latent_rollout", {"suffix_len": -1}, "suffix_key must have room for suffix_len"),
    ("latent_rollout", {"suffix_len": 4}, "suffix_key must have room for suffix_len"),
    ("latent_rollout", {"suffix_len": (1 << 63) - 1}, "suffix_key must have room for suffix_len"),
    ("latent_rollout", {"ancestry": [-1]}, "ancestry must be in"),
    ("latent_rollout", {"ancestry": [1 << 40]}, "ancestry must be in"),
    ("latent_rollout", {"sigma": -1.0}, "sigma must be finite and not negative, got -1"),
    ("latent_rollout", {"sigma": float("nan")}, "sigma must be finite"),
    ("latent_rollout", {"keep": [2, 2]}, r"keep must have one entry per step \(4\) or none, got 2"),
    ("latent_rollout", {"keep": [2, -1, 2, 1]}, "keep must not be negative, got -1 for step 1"),
    ("latent_rollout", {"keep": []}, "candidates must be 1 where keep prunes nothing, got 2"),
    ("latent_rollout", {"candidates": 0}, "candidates must be in"),
    ("latent_rollout", {"candidates": 1 << 62}, "candidates must be in"),
    ("latent_rollout", {"candidates": 1 << 20}, "thoughts must have room for the"),
    ("latent_rollout", {"reward_model": None}, "keep needs a reward_model, whose scores decide"),
    ("latent_rollout", {"step_scores": None}, "step_scores must be given with reward_model"),
    ("latent_rollout", {"reward_prompt_len": None}, "reward_prompt_len.* must be given with reward_model"),
    ("latent_rollout", {"reward_prompt_index": [-1]}, "reward_prompt_index must be in"),
    ("decode_answers", {"first_token": [VOCABULARY]}, r"first_token must be in \[0, 131\), got 131"),
    ("decode_answers", {"max_tokens": 0}, "max_tokens must be at least 1, and .*, got 0"),
    ("decode_answers", {"max_tokens": 1000}, "max_tokens must be at least 1, and suffix_key have room"),
    ("decode_answers", {"max_tokens": (1 << 63) - 1}, "max_tokens must be at least 1, and suffix_key have room"),
    ("decode_answers", {"temperature": -1.0}, "temperature must be finite and not negative, got -1"),
    ("decode_answers", {"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0"),
    ("decode_answers", {"top_p": float("nan")}, r"top_p must be in \(0, 1\]"),
    ("decode_answers", {"suffix_len": [-1]}, "suffix_len must be in"),
    ("decode_answers", {"suffix_len": [8]}, "suffix_len must be in"),
    ("decode_answers", {"ancestry": [-1]}, "ancestry must be in"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), BAD_CALLS)
def test_a_call_that_cannot_be_right_is_named(
    generator: Generator, name: str, changes: dict[str, Any], message: str
) -> None:
    """A list replaces the first elements of the tensor that is there."""
    packed, reward = packed_model(generator), packed_model(generator)
    case = cases_of_every_op(generator, packed, reward, 4)[name]
    arguments = dict(case.arguments)
    for argument, value in changes.items():
        if isinstance(value, list) and isinstance(arguments[argument], Tensor):
            arguments[argument] = arguments[argument].clone()
            arguments[argument].view(-1)[: len(value)] = torch.tensor(value)
        else:
            arguments[argument] = value
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, name)(**arguments)


def test_rows_that_would_write_the_same_place_are_named(generator: Generator) -> None:
    case = decode_answers_case(generator, packed_model(generator), rows=3)
    case.arguments["ancestry"][1] = case.arguments["ancestry"][0]
    with pytest.raises(
        RuntimeError, match="ancestry must give every row its own place to write, got rows 0 and 1"
    ):
        case.run()


def test_positions_end_where_the_table_of_positions_does(generator: Generator) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    cases = cases_of_every_op(generator, packed, reward, 4)
    for name, case in cases.items():
        table = case.arguments["position_embedding"]
        short = case.with_arguments(position_embedding=table[:2].contiguous())
        with pytest.raises(RuntimeError, match=r"would reach position .*; position_embedding has 2"):
            getattr(ops, name)(**short.arguments)
    case = cases["latent_rollout"]
    table = case.arguments["reward_position_embedding"][:2].contiguous()
    with pytest.raises(RuntimeError, match="the LatentRM would reach position"):
        case.with_arguments(reward_position_embedding=table).run()


def test_a_table_of_positions_is_refused_where_positions_rotate(generator: Generator) -> None:
    packed, reward = packed_model(generator, "llama"), packed_model(generator, "llama")
    for case in cases_of_every_op(generator, packed, reward, 2).values():
        table = torch.zeros(40, packed.token_embedding.shape[1])
        with pytest.raises(RuntimeError, match="position_embedding must be None for a model that rotates"):
            case.with_arguments(position_embedding=table).run()


# Bytes from anywhere


def header_of(data: Tensor) -> Tensor:
    """The int64 words before the first section, which the 14th or, without rotation, the 18th of them locates."""
    words = data[: data.numel() // 8 * 8].view(torch.int64)
    return words[: int(words[13] or words[17]) // 8]


def outcome(case: OpCase, data: Tensor) -> str:
    """Runs the op on other bytes: the message of its RuntimeError, or "" where it accepts them."""
    try:
        getattr(ops, case.name)(**(case.arguments | {"model": data}))
    except RuntimeError as error:
        return str(error)
    return ""


@on_every_format_and_body
def test_no_word_of_the_header_can_make_an_op_crash(generator: Generator, body: str, weights: str) -> None:
    packed = packed_model(generator, body, weights)
    reward = packed_model(generator, body, weights)
    cases = list(cases_of_every_op(generator, packed, reward, 2).values())
    size = packed.data.numel()
    words = header_of(packed.data).clone()
    nan, huge = 0x7FF8 << 48, 0x7FEF << 48  # as doubles
    for index, word in enumerate(words.tolist()):
        values = {
            0, 1, -1, 2, 5, 64, word - 1, word + 1, word - 64, word + 64, 2 * word, size, size // 64 * 64, 1 << 24,
            1 << 31, 1 << 62, -(1 << 63), (1 << 63) - 1, nan, huge,
        } - {word}  # fmt: skip
        for n, value in enumerate(sorted(values)):
            data = packed.data.clone()
            data[: 8 * len(words)].view(torch.int64)[index] = (value + (1 << 63)) % (1 << 64) - (1 << 63)
            # Each op reads the same header: they take turns.
            message = outcome(cases[(index + n) % len(cases)], data)
            assert message == "" or "must" in message or "is not a packed model" in message
            if index < 3:
                assert "model is not a packed model" in message


@on_every_format_and_body
def test_bytes_that_are_cut_off_are_no_model(generator: Generator, body: str, weights: str) -> None:
    packed = packed_model(generator, body, weights)
    cases = list(cases_of_every_op(generator, packed, packed, 2).values())
    size = packed.data.numel()
    lengths = [0, 1, 7, 8, 23, 24, 25, 200, size // 2, size - 64, size - 1]
    for n, length in enumerate(lengths):
        data = packed.data[:length].clone()
        assert "model is not a packed model" in outcome(cases[n % len(cases)], data)
        if length >= 24:
            # stating the shorter size does not help
            data[16:24].view(torch.int64)[0] = length
            assert "model is not a packed model" in outcome(cases[n % len(cases)], data)
    longer = torch.cat([packed.data, torch.zeros(64, dtype=torch.uint8)])
    assert "model is not a packed model" in outcome(cases[0], longer)


def test_noise_is_no_model(generator: Generator) -> None:
    packed = packed_model(generator)
    case = read_prompts_case(generator, packed)
    for _ in range(50):
        data = torch.randint(0, 256, (packed.data.numel(),), generator=generator).to(torch.uint8)
        assert "it does not begin with the mark of one" in outcome(case, data)
        data[:24] = packed.data[:24]
        assert "model is not a packed model" in outcome(case, data)


def test_a_model_has_no_more_layers_than_there_are_sites(generator: Generator) -> None:
    packed = packed_model(generator)
    data = packed.data.clone()
    data[24:32].view(torch.int64)[0] = MAX_LAYERS + 1
    message = outcome(read_prompts_case(generator, packed), data)
    assert f"layers must be in [1, {MAX_LAYERS}], got {MAX_LAYERS + 1}" in message


def test_another_version_is_named_with_the_way_out(generator: Generator) -> None:
    packed = packed_model(generator)
    data = packed.data.clone()
    data[8:16].view(torch.int64)[0] = 1
    message = outcome(read_prompts_case(generator, packed), data)
    assert "version 1 is not the version 2 that this build reads; pack the model again" in message
    with pytest.raises(ValueError, match="model is not a packed model of version 2"):
        unpack(data)


def test_a_model_without_the_head_that_an_op_needs_is_named(generator: Generator) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    cases = cases_of_every_op(generator, packed, reward, 2)
    body_only = packed_model(generator, heads=False)
    with pytest.raises(RuntimeError, match="model must have an LM head"):
        cases["decode_answers"].with_arguments(model=body_only.data).run()
    with pytest.raises(RuntimeError, match="reward_model must have a score head"):
        cases["latent_rollout"].with_arguments(reward_model=body_only.data).run()
    narrow = packed_model(generator, hidden=48)
    table = {"reward_position_embedding": narrow.position_embedding}
    with pytest.raises(RuntimeError, match="reward_model must read thoughts of size 51, got 48"):
        cases["latent_rollout"].with_arguments(reward_model=narrow.data, **table).run()
