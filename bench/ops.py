"""Every op against its PyTorch equivalent, in one run: `make bench` (pytest-benchmark).

Shapes are those of GPT-2 small with 64 trajectories of one question. One thread, so that ratios hold on
shared machines; compare medians within a group, never across runs. Results are checked before timing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from latent_ext import ops
from latent_ext.ops import sites
from latent_ext.ops.tolerances import assert_close

ROWS, HIDDEN, HEADS, HEAD_DIM, PROMPT, SUFFIX, VOCABULARY = 64, 768, 12, 64, 73, 6, 50257
P = 0.2


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def _rows() -> dict[str, Tensor]:
    return {
        "keys": torch.randint(-(2**63), 2**63 - 1, (ROWS,)),
        "positions": torch.full((ROWS,), PROMPT),
        "seed": torch.tensor([1]),
    }


def _compare(benchmark, name: str, which: str, ours: Callable, theirs: Callable) -> None:
    benchmark.group = name
    benchmark.extra_info |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    benchmark(ours if which == "latent_ext" else theirs)


BOTH = pytest.mark.parametrize("which", ["latent_ext", "torch"])


@BOTH
def test_dropout_add_norm(benchmark, which: str) -> None:
    branch, residual = torch.randn(ROWS, HIDDEN), torch.randn(ROWS, HIDDEN)
    weight, bias, row = torch.randn(HIDDEN), torch.randn(HIDDEN), _rows()
    site = sites.layer_site(0, sites.MLP_OUTPUT)

    def ours(p: float = P) -> tuple[Tensor, Tensor]:
        return ops.dropout_add_norm(
            branch, residual, weight, bias, **row, site=site, p=p, eps=1e-5, norm="layer"
        )

    def theirs(p: float = P) -> tuple[Tensor, Tensor]:
        added = residual + functional.dropout(branch, p, training=True)
        return added, functional.layer_norm(added, (HIDDEN,), weight, bias)

    assert_close(ours(0.0)[1], theirs(0.0)[1], "norm")
    _compare(benchmark, f"dropout_add_norm {ROWS}x{HIDDEN}", which, ours, theirs)


@BOTH
def test_next_thought(benchmark, which: str) -> None:
    hidden, row = torch.randn(ROWS, HIDDEN), _rows()
    weight, bias = torch.randn(HIDDEN), torch.randn(HIDDEN)
    into, store = torch.empty(ROWS, HIDDEN), torch.empty(ROWS, SUFFIX, HIDDEN)

    def ours(sigma: float = 0.6) -> Tensor:
        ops.next_thought(
            hidden,
            weight,
            bias,
            None,
            **row,
            eps=1e-5,
            norm="layer",
            scale=1.0,
            sigma=sigma,
            relative=False,
            step=0,
            next_input=into,
            thoughts=store,
        )
        return into

    def theirs(sigma: float = 0.6) -> Tensor:
        thought = functional.layer_norm(hidden, (HIDDEN,), weight, bias)
        thought = thought + sigma * torch.randn_like(thought)
        store[:, 0] = thought
        return thought

    assert_close(ours(0.0).clone(), theirs(0.0), "norm")
    _compare(benchmark, f"next_thought {ROWS}x{HIDDEN}", which, ours, theirs)


@BOTH
def test_prefix_decode_attention(benchmark, which: str) -> None:
    query, key, value = (torch.randn(ROWS, HEADS, HEAD_DIM) for _ in range(3))
    prefix_key, prefix_value = (torch.randn(1, HEADS, PROMPT, HEAD_DIM) for _ in range(2))
    suffix_key, suffix_value = (torch.randn(ROWS, HEADS, SUFFIX + 1, HEAD_DIM) for _ in range(2))
    index, lengths = torch.zeros(ROWS, dtype=torch.int64), torch.tensor([PROMPT])
    ancestry = torch.arange(ROWS).unsqueeze(1).expand(ROWS, SUFFIX + 1).contiguous()
    suffix_len = torch.full((ROWS,), SUFFIX)

    def ours() -> Tensor:
        return ops.prefix_decode_attention(
            query,
            key,
            value,
            prefix_key,
            prefix_value,
            index,
            lengths,
            suffix_key,
            suffix_value,
            ancestry,
            suffix_len,
            HEAD_DIM**-0.5,
        )

    # What a stock cache holds: the prompt copied for every trajectory.
    copied_key = torch.cat([prefix_key.expand(ROWS, -1, -1, -1), suffix_key], dim=2)
    copied_value = torch.cat([prefix_value.expand(ROWS, -1, -1, -1), suffix_value], dim=2)

    def theirs() -> Tensor:
        copied_key[:, :, -1], copied_value[:, :, -1] = key, value
        return functional.scaled_dot_product_attention(query.unsqueeze(2), copied_key, copied_value).squeeze(
            2
        )

    assert_close(ours(), theirs(), "attention")
    _compare(benchmark, f"prefix_decode_attention {ROWS} rows, prompt {PROMPT}", which, ours, theirs)


@BOTH
def test_score_and_prune(benchmark, which: str) -> None:
    hidden, weight, bias = torch.randn(ROWS, HIDDEN), torch.randn(HIDDEN), torch.randn(1)
    total, offsets = torch.randn(ROWS), torch.tensor([0, ROWS])

    def ours() -> Tensor:
        return ops.score_and_prune(hidden, weight, bias, total, offsets, 16)[2]

    def theirs() -> Tensor:
        return (total + hidden @ weight + bias).topk(16).indices.unsqueeze(0)

    assert ours().sort().values.equal(theirs().sort().values)
    _compare(benchmark, f"score_and_prune {ROWS}x{HIDDEN}, keep 16", which, ours, theirs)


@BOTH
def test_next_token(benchmark, which: str) -> None:
    hidden, head, row = torch.randn(ROWS, HIDDEN), torch.randn(VOCABULARY, HIDDEN), _rows()

    def ours() -> tuple[Tensor, Tensor]:
        return ops.next_token(hidden, None, None, head, **row, eps=0.0, norm="none", temperature=0.0)

    def theirs() -> tuple[Tensor, Tensor]:
        best = (hidden @ head.T).log_softmax(dim=1).max(dim=1)
        return best.indices, best.values

    assert ours()[0].equal(theirs()[0])
    _compare(benchmark, f"next_token {ROWS} rows, vocabulary {VOCABULARY}", which, ours, theirs)
