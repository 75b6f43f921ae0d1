"""Final norm, LM head and the choice of one token per row, without storing rows x vocabulary where all tokens may come."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.ops import sites
from latent_ext.ops.arguments import (
    check_finite,
    check_inference,
    check_rank,
    check_storage,
    check_tensor,
    check_width,
    row_randomness,
)
from latent_ext.ops.norms import check_norm, norm_reference
from latent_ext.ops.philox import gumbels


def next_token(
    hidden: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    lm_head: Tensor,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    *,
    eps: float = 1e-5,
    norm: str = "none",
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Choose the next token of every row, greedily or by sampling with the Gumbel-max method.

    With logits = norm(hidden) @ lm_head.T in float32: for temperature 0 the token is the argmax of the
    logits, else the argmax of logits / temperature + g with g a standard Gumbel value per vocabulary id (site
    `sites.TOKEN`). Ties go to the smaller id. A NaN logit is never chosen unless all are NaN (then token 0).
    A row's result depends on no other row and on no number of threads, and is the same bits at the CPU levels
    avx2 and avx512.

    Args:
        hidden: float32 or bfloat16 [rows, hidden].
        norm_weight, norm_bias: [hidden], dtype of `hidden`, or None; parameters of the norm (bias for "layer"
            only).
        lm_head: [vocab, hidden], dtype of `hidden`, vocab at least 1.
        keys: int64 [rows], trajectory keys.
        positions: int64 [rows], or an int for all rows: the position of the token that is drawn, in [0,
            0xFFFFF), or `sites.FIXED`.
        seed: 64-bit run seed, an int or an int64 tensor with one element on the device of `hidden`.
        eps: of the norm, 1e-5 by default.
        norm: "layer", "rms" or "none" (default; hidden is already normed).
        temperature: at least 0; 0 (default) is greedy and draws nothing.
        top_p: in (0, 1]; below 1 (default) the token is drawn from the nucleus: the fewest most likely tokens whose
            probabilities at this temperature add up to `top_p`, and those that are as likely as the last of them.
            Each keeps its Gumbel value, so where the draw from all tokens is in the nucleus it stays. All logits are
            in memory then, and a library's product computes them.

    Returns:
        token: int64 [rows].
        logprob: float32 [rows], log softmax (natural logarithm) of the untempered logits at the token; NaN
            where a logit of the row is NaN.

    Raises:
        TypeError: an argument has a dtype that is not listed above.
        ValueError: a shape, device, norm or temperature that is not allowed.
        RuntimeError: an input requires grad while grad mode is on, or a position is out of range.

    Source: C. J. Maddison, D. Tarlow, T. Minka, "A* sampling", NeurIPS 2014 (Gumbel-max); A. Holtzman et al., "The
    curious case of neural text degeneration", ICLR 2020 (top-p).
    """
    if top_p != 1.0:
        return next_token_reference(
            hidden, norm_weight, norm_bias, lm_head, keys, positions, seed,
            eps=eps, norm=norm, temperature=temperature, top_p=top_p,
        )  # fmt: skip
    keys, positions, seed = _check(
        hidden, lm_head, keys, positions, seed, norm_weight, norm_bias, eps, norm, temperature
    )
    return torch.ops.latent_ext.next_token(
        hidden.contiguous(),
        None if norm_weight is None else norm_weight.contiguous(),
        None if norm_bias is None else norm_bias.contiguous(),
        lm_head.contiguous(),
        keys,
        positions,
        seed,
        eps,
        norm,
        temperature,
    )


def next_token_reference(
    hidden: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    lm_head: Tensor,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    *,
    eps: float = 1e-5,
    norm: str = "none",
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`next_token` in plain PyTorch, all logits in memory: same arguments and draw, other order of sums."""
    keys, positions, seed = _check(
        hidden, lm_head, keys, positions, seed, norm_weight, norm_bias, eps, norm, temperature
    )
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    logits = norm_reference(hidden, norm_weight, norm_bias, eps, norm) @ lm_head.to(torch.float32).T
    token = choose(tempered(logits, keys, positions, seed, temperature, top_p))
    return token, logits.log_softmax(dim=-1).gather(-1, token.unsqueeze(-1)).squeeze(-1)


def tempered(
    logits: Tensor, keys: Tensor, positions: Tensor, seed: Tensor, temperature: float, top_p: float = 1.0
) -> Tensor:
    """Values [rows, vocab] whose argmax is the token: the logits, or logits / temperature + Gumbel values.

    Values of tokens outside the nucleus are NaN, which is never chosen.
    """
    if temperature == 0:
        return logits
    values = logits / temperature + gumbels(seed, keys, positions, sites.TOKEN, logits.shape[-1])
    return values if top_p == 1.0 else torch.where(in_nucleus(logits, temperature, top_p), values, torch.nan)


def in_nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """bool [rows, vocab], the tokens that top-p sampling may draw; see `next_token`. NaN logits have no probability."""
    numbers = torch.where(logits.isnan(), -torch.inf, logits).to(torch.float64)
    ordered = numbers.sort(dim=-1, descending=True).values
    before = (ordered / temperature).softmax(dim=-1).cumsum(dim=-1)
    last = (before < top_p).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return numbers >= ordered.gather(-1, last)


def choose(values: Tensor) -> Tensor:
    """Index of the largest of values [rows, n]; ties to the smaller index, NaN last (0 if all are NaN)."""
    is_nan = values.isnan()
    best = torch.where(is_nan, -torch.inf, values).amax(dim=-1, keepdim=True)
    candidates = (values == best) | is_nan.all(dim=-1, keepdim=True)
    return candidates.to(torch.uint8).argmax(dim=-1)


def _check(
    hidden: Tensor,
    lm_head: Tensor,
    keys: Tensor,
    positions: int | Tensor,
    seed: int | Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    norm: str,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_storage("hidden", hidden)
    check_rank("hidden", hidden, "[rows, hidden]")
    check_width("hidden", hidden)
    check_rank("lm_head", lm_head, "[vocab, hidden]")
    shape = (lm_head.shape[0], hidden.shape[1])
    check_tensor("lm_head", lm_head, shape, "[vocab, hidden]", hidden.dtype, hidden.device)
    if lm_head.shape[0] == 0:
        raise ValueError("lm_head must have at least one row, got an empty vocabulary")
    check_norm(norm, eps, hidden, norm_weight, norm_bias, prefix="norm_")
    check_finite("temperature", temperature, low=0)
    tensors = {"hidden": hidden, "lm_head": lm_head, "norm_weight": norm_weight, "norm_bias": norm_bias}
    check_inference("next_token", **tensors)
    return row_randomness(hidden.shape[0], hidden.device, keys, positions, seed)


@torch.library.register_fake("latent_ext::next_token")
def _fake(
    hidden: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    lm_head: Tensor,
    keys: Tensor,
    positions: Tensor,
    seed: Tensor,
    eps: float,
    norm: str,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(keys), torch.empty_like(keys, dtype=torch.float32)
