"""The ops on a CUDA device: the references' random bits, any stream, graph capture."""

from __future__ import annotations

import pytest
import torch
from kernel_agreement import assert_agrees
from op_cases import DTYPES, OP_NAMES, OpCase, dropout_add_norm_case, next_thought_case, random_case
from simt_calls import same_bits
from torch import Tensor

from latent_ext import _library, ops
from latent_ext.ops import philox, sites

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: no CUDA device"
    ),
]

DRAWING_OPS = ("dropout_add_norm", "next_thought", "next_token")


def on_cuda(case: OpCase) -> OpCase:
    return case.with_arguments(**{n: v.cuda() for n, v in case.arguments.items() if isinstance(v, Tensor)})


def run_on_cuda(case: OpCase) -> list[Tensor]:
    return [result.cpu() for result in on_cuda(case).run()]


def test_the_cuda_kernels_are_loaded() -> None:
    assert _library.cuda_loaded, "torch has CUDA but latent_ext was built without nvcc"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 63, 768, 1023, 8192])
@pytest.mark.parametrize("rows", [0, 1, 17])
@pytest.mark.parametrize("name", OP_NAMES)
def test_agrees_with_the_reference(
    generator: torch.Generator, name: str, rows: int, hidden: int, dtype: torch.dtype
) -> None:
    case = random_case(name, generator, rows=rows, hidden=hidden, dtype=dtype)
    assert_agrees(case, run_on_cuda(case))


def test_gaussian_values_and_masks_are_the_bits_of_the_cpu(generator: torch.Generator) -> None:
    case = next_thought_case(generator, hidden=4099, norm="none", noise="absolute", steps=None)
    case = case.with_arguments(hidden=torch.zeros(5, 4099), scale=1.0, sigma=1.0)
    a = case.arguments
    expected = philox.normals(a["seed"], a["keys"], a["positions"], sites.NOISE, 4099)
    assert same_bits(run_on_cuda(case), [expected])
    case = dropout_add_norm_case(generator, hidden=4099, norm="none")
    assert same_bits(run_on_cuda(case), case.run())


@pytest.mark.parametrize("name", OP_NAMES)
def test_a_row_has_the_same_bits_whatever_the_batch(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, rows=33, hidden=200, shared=False, questions=1)
    if name == "score_and_prune":
        case = case.with_arguments(question_offsets=torch.tensor([0, 33]))
    results = run_on_cuda(case)
    alone = case.select(torch.tensor([7]))
    if name == "score_and_prune":
        alone = alone.with_arguments(question_offsets=torch.tensor([0, 1]))
    assert same_bits([run_on_cuda(alone)[0]], [results[0][[7]]])


@pytest.mark.parametrize("name", OP_NAMES)
def test_runs_on_the_current_stream(generator: torch.Generator, name: str) -> None:
    case = random_case(name, generator, rows=9, hidden=256)
    expected = run_on_cuda(case)
    moved = on_cuda(case)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # an op on another stream would finish before its inputs are there
        late = moved.with_arguments(**{n: v + 0 for n, v in moved.arguments.items() if isinstance(v, Tensor)})
        results = late.run()
    stream.synchronize()
    assert same_bits([result.cpu() for result in results], expected)


@pytest.mark.parametrize("name", OP_NAMES)
def test_a_captured_graph_computes_with_what_its_inputs_hold_at_replay(
    generator: torch.Generator, name: str
) -> None:
    first = on_cuda(random_case(name, generator, rows=9, hidden=256))
    first.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = first.run()
    for _ in range(2):
        if name in DRAWING_OPS:
            first.arguments["seed"].add_(1)
        else:
            next(v for v in first.arguments.values() if v.is_floating_point()).mul_(0.5)
        graph.replay()
        torch.cuda.synchronize()
        assert same_bits([result.cpu() for result in results], [result.cpu() for result in first.run()])


@pytest.mark.parametrize("name", OP_NAMES)
def test_a_tensor_left_on_the_cpu_is_a_clear_error(generator: torch.Generator, name: str) -> None:
    case = on_cuda(random_case(name, generator))
    last = [n for n, v in case.arguments.items() if isinstance(v, Tensor)][-1]
    with pytest.raises(ValueError, match=f"{last} must be on cuda"):
        case.with_arguments(**{last: case.arguments[last].cpu()}).run(getattr(ops, name))
