"""What holds for every op: registration, compilation, no gradient, the same bits whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import DTYPES, OP_NAMES, PACKED_OPS, OpCase, random_case

import latent_ext._native as _native
from latent_ext import ops
from latent_ext.ops.tolerances import assert_close

EXACT_AT_EVERY_LEVEL = ("dropout_add_norm", "next_thought")
KINDS = {"prefix_decode_attention": "attention", "score_and_prune": "score", "next_token": "logprob"}
DRAWING_OPS = ("dropout_add_norm", "next_thought", "next_token")


def assert_same_bits(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, "rng", storage=torch.float32)


def row_results(case: OpCase) -> list[torch.Tensor]:
    """The results that have a row axis, in the order of `run`."""
    results = case.run()
    return {
        "dropout_add_norm": results,
        "next_thought": results,
        "prefix_decode_attention": results[:1],
        "score_and_prune": results[:2],
        "next_token": results,
    }[case.name]


def test_every_schema_has_a_face_a_reference_and_tests() -> None:
    namespace = "latent_ext::"
    schemas = {
        name.removeprefix(namespace)
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith(namespace)
    }
    assert schemas == {*OP_NAMES, *PACKED_OPS}
    for name in schemas:
        assert {name, name + "_reference"} <= set(ops.__all__)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OP_NAMES)
def test_opcheck_passes(generator: torch.Generator, name: str, dtype: torch.dtype) -> None:
    case = random_case(name, generator, dtype=dtype)
    torch.library.opcheck(getattr(torch.ops.latent_ext, name).default, case.schema_arguments())


@pytest.mark.parametrize("name", OP_NAMES)
def test_opcheck_passes_without_optional_arguments(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, norm="none", noise="none", steps=None, bias=False)
    torch.library.opcheck(getattr(torch.ops.latent_ext, name).default, case.schema_arguments())


@pytest.mark.parametrize("name", OP_NAMES)
def test_a_compiled_function_can_call_the_op(generator: torch.Generator, name: str) -> None:
    torch.compiler.reset()
    case = random_case(name, generator)
    op = getattr(ops, name)

    def function(**arguments: Any) -> Any:
        return op(**arguments)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same_bits(case.run(compiled), case.run())


@pytest.mark.parametrize("name", DRAWING_OPS)
def test_a_compiled_function_takes_a_new_seed_without_compiling_again(
    generator: torch.Generator, name: str
) -> None:
    torch.compiler.reset()
    case = random_case(name, generator)
    op = getattr(ops, name)
    compiled = torch.compile(lambda **arguments: op(**arguments), fullgraph=True, backend="aot_eager")
    case.run(compiled)
    with torch.compiler.set_stance("fail_on_recompile"):
        other = case.with_arguments(seed=case.arguments["seed"] + 1)
        assert_same_bits(other.run(compiled), other.run())


@pytest.mark.parametrize("name", DRAWING_OPS)
def test_a_seed_may_be_an_int_or_a_tensor(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, rows=3)
    seed = int(case.arguments["seed"])
    expected = case.run()
    assert_same_bits(case.with_arguments(seed=seed).run(), expected)
    assert_same_bits(case.with_arguments(seed=seed % (1 << 64)).run(), expected)
    assert_same_bits(case.with_arguments(seed=torch.tensor(seed)).run(), expected)
    assert_same_bits(case.with_arguments(seed=seed).run_reference(), case.run_reference())


@pytest.mark.parametrize("name", DRAWING_OPS)
def test_seed_key_and_position_each_change_the_result(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, rows=8, vocab=1000, temperature=4.0)
    a = case.arguments
    for changed in (
        {"seed": a["seed"] ^ (1 << 40)},
        {"keys": a["keys"] ^ -(1 << 63)},
        {"positions": a["positions"] ^ 1},
    ):
        assert not torch.equal(case.with_arguments(**changed).run()[0], case.run()[0])


@pytest.mark.parametrize("name", OP_NAMES)
def test_the_same_call_gives_the_same_bits(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, rows=17)
    assert_same_bits(case.run(), case.run())


def unaligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, contiguous, one element behind the start of an allocation."""
    view = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape)
    return view.copy_(tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OP_NAMES)
def test_alignment_changes_no_bit(generator: torch.Generator, name: str, dtype: torch.dtype) -> None:
    case = random_case(name, generator, rows=5, hidden=77, dtype=dtype)
    moved = {n: unaligned(a) for n, a in case.arguments.items() if isinstance(a, torch.Tensor)}
    op, mutated = getattr(ops, name), [moved[n] for n in case.written()]
    result = op(**(case.arguments | moved))
    outputs = [] if result is None else [result] if isinstance(result, torch.Tensor) else list(result)
    assert_same_bits(outputs + mutated, case.run())


@pytest.mark.parametrize("name", OP_NAMES)
def test_the_registered_op_checks_what_reaches_it(generator: torch.Generator, name: str) -> None:
    """Behind the Python face the op itself must not read wrong memory either."""
    case = random_case(name, generator)
    op = getattr(torch.ops.latent_ext, name).default
    for argument in [n for n, a in case.arguments.items() if isinstance(a, torch.Tensor)]:
        tensor = case.arguments[argument]
        other = torch.float64 if tensor.is_floating_point() else torch.int32
        wrong = [tensor.to(other), torch.cat([tensor, tensor], dim=-1)]
        if tensor.numel() > 1:
            wrong.append(tensor.repeat_interleave(2, dim=-1)[..., ::2])
        for value in wrong:
            with pytest.raises(RuntimeError, match="must"):
                op(*case.with_arguments(**{argument: value}).schema_arguments())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OP_NAMES)
def test_the_number_of_threads_changes_no_bit(
    generator: torch.Generator, restored_threads: None, name: str, dtype: torch.dtype
) -> None:
    case = random_case(
        name, generator, rows=67, hidden=513, dtype=dtype, vocab=3001, max_prompt=70, questions=9
    )
    torch.set_num_threads(1)
    expected = case.run()
    torch.set_num_threads(2)
    assert_same_bits(case.run(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in OP_NAMES if name != "score_and_prune"])
def test_a_row_is_the_same_bits_in_every_batch(
    generator: torch.Generator, name: str, dtype: torch.dtype
) -> None:
    case = random_case(name, generator, rows=37, hidden=129, dtype=dtype, vocab=203)
    together = row_results(case)
    order = torch.randperm(37, generator=generator)
    assert_same_bits(row_results(case.select(order)), [result[order] for result in together])
    for size in (1, 5, 16):
        chunks = [row_results(case.select(chunk)) for chunk in torch.arange(37).split(size)]
        assert_same_bits([torch.cat(parts) for parts in zip(*chunks, strict=True)], together)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_score_is_the_same_bits_in_every_batch(generator: torch.Generator, dtype: torch.dtype) -> None:
    case = random_case("score_and_prune", generator, rows=37, hidden=129, dtype=dtype, questions=1)
    together = row_results(case)
    order = torch.randperm(37, generator=generator)
    assert_same_bits(row_results(case.select(order)), [result[order] for result in together])
    for row in range(37):
        alone = case.select(torch.tensor([row])).with_arguments(question_offsets=torch.tensor([0, 1]))
        assert_same_bits(row_results(alone), [result[row : row + 1] for result in together])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [7, 63, 768])
@pytest.mark.parametrize("name", OP_NAMES)
def test_cpu_levels_agree(
    generator: torch.Generator, restored_capability: None, name: str, hidden: int, dtype: torch.dtype
) -> None:
    case = random_case(
        name, generator, rows=9, hidden=hidden, head_dim=hidden % 97, dtype=dtype, temperature=0.0
    )
    results = {}
    for level in _native.supported_capabilities():
        _native.set_cpu_capability(level)
        results[level] = case.run()
    if "avx512" in results:
        assert_same_bits(results["avx512"], results["avx2"])
    for result in results.values():
        if name in EXACT_AT_EVERY_LEVEL:
            assert_same_bits(result, results["default"])
        elif (
            name == "next_token"
        ):  # tokens may change places only with near equals, which share their log probability
            assert_close(result[1], results["default"][1], KINDS[name], storage=dtype)
        elif name == "score_and_prune":
            assert_close(result[1], results["default"][1], KINDS[name], storage=dtype)
        else:
            assert_close(result[0], results["default"][0], KINDS[name], storage=dtype)


@pytest.mark.parametrize("name", OP_NAMES)
def test_an_input_that_requires_grad_is_refused_in_grad_mode(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, rows=3)
    floating = [n for n, a in case.arguments.items() if isinstance(a, torch.Tensor) and a.is_floating_point()]
    for argument in floating:
        leaf = case.arguments[argument].clone().requires_grad_()
        arguments = case.arguments | {argument: leaf}
        for function in (getattr(ops, name), getattr(ops, name + "_reference")):
            with torch.enable_grad(), pytest.raises(RuntimeError, match=f"{name}.*no gradient.*{argument}"):
                function(**arguments)


@pytest.mark.parametrize("name", OP_NAMES)
def test_parameters_are_accepted_without_grad_mode(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, rows=3)
    parameters = {
        argument: torch.nn.Parameter(value)
        for argument, value in case.arguments.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and argument not in case.mutated
    }
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_same_bits(case.with_arguments(**parameters).run(), case.run())
