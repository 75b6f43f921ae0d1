"""Results of a CUDA kernel (on the shim or on a GPU) against the reference of its op."""

from __future__ import annotations

import torch
from op_cases import OpCase
from torch import Tensor

from latent_ext.ops.next_token import tempered
from latent_ext.ops.norms import norm_reference
from latent_ext.ops.score_and_prune import best_first
from latent_ext.ops.tolerances import assert_close, tolerance

# Kind of every result of `OpCase.run`; "survivors" and "token" follow from the results beside them.
KINDS = {
    "dropout_add_norm": ("rng", "norm"),
    "next_thought": ("thought", "thought"),
    "prefix_decode_attention": ("attention", "rng", "rng"),
    "score_and_prune": ("score", "score", "survivors"),
    "next_token": ("token", "logprob"),
}


def assert_agrees(case: OpCase, results: list[Tensor]) -> None:
    """Every result agrees with the reference to the tolerances, choices with the values they rest on."""
    dtype = next(v.dtype for v in case.arguments.values() if isinstance(v, Tensor))
    expected = case.run_reference()
    if case.name == "next_token":
        expected = _chosen(case, results[0])
    for kind, actual, wanted in zip(KINDS[case.name], results, expected, strict=False):
        if kind == "survivors":
            assert torch.equal(actual, survivors_of(case, results[1]))
        elif kind != "token":
            assert_close(actual, wanted, kind, storage=dtype)


def survivors_of(case: OpCase, total: Tensor) -> Tensor:
    """The survivors that follow from `total` [rows]: the order is exact, only the scores are rounded."""
    offsets, keep = case.arguments["question_offsets"].tolist(), case.arguments["keep"]
    survivors = torch.full((len(offsets) - 1, keep), -1)
    for question in range(len(offsets) - 1):
        best = best_first(total[offsets[question] : offsets[question + 1]])[:keep]
        survivors[question, : len(best)] = offsets[question] + best
    return survivors


def _chosen(case: OpCase, token: Tensor) -> list[Tensor]:
    """Asserts that `token` is the best of its row up to rounding; its log probability by the reference."""
    a = case.arguments
    normed = norm_reference(a["hidden"], a["norm_weight"], a["norm_bias"], a["eps"], a["norm"])
    logits = normed @ a["lm_head"].float().T
    values = tempered(logits, a["keys"], a["positions"], a["seed"], a["temperature"])
    gap = values.amax(dim=-1) - values.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    allowed = tolerance("logit_gap", a["hidden"].dtype).atol / min(1.0, a["temperature"] or 1.0)
    assert (gap <= allowed).all(), f"a better token was passed over by {gap.max()} > {allowed}"
    return [token, logits.log_softmax(dim=-1).gather(-1, token.unsqueeze(-1)).squeeze(-1)]
