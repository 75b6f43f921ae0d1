"""How closely two implementations must agree: the one table of tolerances.

Every test and every check of `latent_ext` reads its tolerance here, by kind and storage dtype. A kind says
what is compared, because what limits the agreement is the computation, not the test:

    |actual - expected| <= atol * unit + rtol * |expected|

with unit = 1, or the root mean square of `expected` for the kinds in `RELATIVE_TO_RMS`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tolerance(NamedTuple):
    """Relative and absolute tolerance of one kind and dtype."""

    rtol: float
    atol: float


_BF16_STEP = (
    2.0**-7
)  # two values that round to neighbouring bfloat16 numbers differ by up to 2**-7 of their size

TOLERANCES: dict[str, dict[torch.dtype, Tolerance]] = {
    # Words, masks, Gaussian and Gumbel values, keys, residuals after dropout, indices: integer operations or
    # one fixed order of float32 operations. No tolerance.
    "rng": {torch.float32: Tolerance(0.0, 0.0), torch.bfloat16: Tolerance(0.0, 0.0)},
    # Mean and variance sum up to a few thousand terms in another order; in bfloat16 the float32 difference
    # can fall on the two sides of a rounding boundary.
    "norm": {torch.float32: Tolerance(1e-5, 1e-5), torch.bfloat16: Tolerance(_BF16_STEP, 1e-5)},
    # A row whose mean is a thousand times its spread: each addition may cost the float32 mean 2**-24
    # of itself, and the centred row is off by as much, in units of its spread.
    "norm_far_from_zero": {torch.float32: Tolerance(1e-5, 2e-3)},
    # A norm (or nothing), a scale and an exact Gaussian value times a root mean square; same limits, in units
    # of the thought's own size, which is far from 1 in trained models.
    "thought": {torch.float32: Tolerance(1e-5, 1e-5), torch.bfloat16: Tolerance(_BF16_STEP, 1e-5)},
    # Logits summed over head_dim, an exponential of 2e-7 relative error, a weighted mean over all positions.
    "attention": {torch.float32: Tolerance(1e-5, 1e-5), torch.bfloat16: Tolerance(_BF16_STEP, 1e-5)},
    # A float32 dot product of up to a few thousand terms in another order: float32 whatever the storage
    # dtype.
    "score": {torch.float32: Tolerance(1e-5, 1e-5), torch.bfloat16: Tolerance(1e-5, 1e-5)},
    "logits": {torch.float32: Tolerance(1e-5, 1e-5), torch.bfloat16: Tolerance(1e-5, 1e-5)},
    # A logit minus a log-sum-exp: two errors of "logits".
    "logprob": {torch.float32: Tolerance(1e-5, 2e-5), torch.bfloat16: Tolerance(1e-5, 2e-5)},
    # Two candidates whose values lie closer than this may change places: twice the error of one logit.
    "logit_gap": {torch.float32: Tolerance(0.0, 5e-5), torch.bfloat16: Tolerance(0.0, 5e-5)},
    # The whole latent phase through two engines, in units of the thoughts' root mean square: some tens of sums in
    # another order, each fed on; in bfloat16 every layer's rounding may fall to the other side, and a few of the
    # 2**-8 steps add up over layers and thoughts (up to 0.06 seen on random two-layer models). In float32 a thought head
    # with a LayerNorm inside, on a body without biases, amplifies most (up to 1.5e-5 seen).
    # int8 steps are 1/127 of a row's or an output's largest value, some times coarser than bfloat16's.
    "latent_phase": {
        torch.float32: Tolerance(1e-5, 3e-5),
        torch.bfloat16: Tolerance(0.0, 0.15),
        torch.int8: Tolerance(0.0, 0.6),
    },
    # Soft tokens, in units of the thoughts' root mean square: a weight is the exponential of a logit over a temperature,
    # so the absolute error of logits of size ten (some 1e-5) is the relative error of weights, fed on from thought to
    # thought (2e-5 seen on random two-layer models).
    "soft_thought": {torch.float32: Tolerance(1e-4, 1e-4), torch.bfloat16: Tolerance(0.0, 0.15)},
    # Step scores of order 1 that a LatentRM gives to such thoughts.
    "step_score": {
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(0.0, 0.15),
        torch.int8: Tolerance(0.0, 0.6),
    },
    # Sum of an answer's log probabilities: the errors of "logprob", added up over its tokens.
    "answer_logprob": {
        torch.float32: Tolerance(1e-5, 5e-5),
        torch.bfloat16: Tolerance(0.0, 0.3),
        torch.int8: Tolerance(0.0, 1.2),
    },
    # A packed model through a native op and through its reference, in units of the results' root mean square. Both
    # round rows to bfloat16 or int8, so most results agree to float32; but where sums in another order fall on the two
    # sides of a rounding boundary, one step of a row is fed on through layers and thoughts (up to 0.04 in bfloat16
    # and 0.11 in int8 seen on random two-layer models).
    "packed_pass": {
        torch.float32: Tolerance(1e-5, 2e-5),
        torch.bfloat16: Tolerance(0.0, 0.15),
        torch.int8: Tolerance(0.0, 0.25),
    },
    # Scores, logits and sums of log probabilities, of order 1 to 10, that heads compute from such results.
    "packed_logit": {
        torch.float32: Tolerance(1e-5, 5e-5),
        torch.bfloat16: Tolerance(0.0, 0.15),
        torch.int8: Tolerance(0.0, 0.25),
    },
    # Float32 log and exp against float64 (relative for exp, absolute in units of 1 or the value for log).
    "elementary": {torch.float32: Tolerance(3e-7, 3e-7)},
    # Float32 sine and cosine of rotary angles, exactly reduced, against float64.
    "rotation": {torch.float32: Tolerance(0.0, 1.2e-7)},
    # A probability in double precision, such as the tail of a Beta: some hundred roundings.
    "probability": {torch.float64: Tolerance(0.0, 1e-11)},
    # Float32 normal quantile (AS 241, PPND7: about 1e-7 relative, plus the rounding of the tail probability,
    # whose share of 6e-8 / (density * tail) stays below 1e-6 absolute near the centre) against float64.
    "normal": {torch.float32: Tolerance(1e-6, 1.5e-6)},
    "gumbel": {torch.float32: Tolerance(1e-6, 1e-6)},
}

RELATIVE_TO_RMS = frozenset({"thought", "attention", "latent_phase", "soft_thought", "packed_pass"})


def tolerance(kind: str, dtype: torch.dtype) -> Tolerance:
    """The tolerance of a kind at a storage dtype.

    Raises:
        ValueError: if the table has no such kind, or not at this dtype.
    """
    if kind not in TOLERANCES:
        raise ValueError(f"kind must be one of {', '.join(sorted(TOLERANCES))}, got {kind!r}")
    if dtype not in TOLERANCES[kind]:
        raise ValueError(f"kind {kind!r} has no tolerance for {dtype}")
    return TOLERANCES[kind][dtype]


def assert_close(actual: Tensor, expected: Tensor, kind: str, storage: torch.dtype | None = None) -> None:
    """Assert that `actual` agrees with `expected` to the table.

    Args:
        actual, expected: same shape and dtype. NaN agrees with NaN, an infinity with the same infinity.
        kind: a key of `TOLERANCES`.
        storage: storage dtype of the computation, by default the dtype of `expected`.

    Raises:
        AssertionError: with the largest differences, if they do not agree.
        ValueError: as `tolerance`.
    """
    rtol, atol = tolerance(kind, storage or expected.dtype)
    if kind in RELATIVE_TO_RMS and expected.numel() > 0:
        finite = expected[expected.isfinite()].to(torch.float64)
        atol *= float(finite.square().mean().sqrt()) if finite.numel() > 0 else 1.0
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"kind {kind!r}: {text}"
    )
