"""Natural logarithm, exponential and normal quantile in float32, the same bits on every device.

Each function uses only +, -, x, /, sqrt and integer operations in a fixed order, one PyTorch operation per
rounding, so that nothing can be contracted into a fused multiply-add. `csrc/include/latent_ext/elementary.h`
and `normal.h` compute the same bits.

Sources: log and exp follow Cephes ``logf`` and ``expf`` (S. L. Moshier, Cephes Mathematical Library,
1989-1995); the normal quantile is PPND7 of algorithm AS 241 (M. J. Wichura, Applied Statistics 37(3), 1988).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
_LOG_POLYNOMIAL = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_EXP_POLYNOMIAL = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
)  # fmt: skip
_A = (5.9109374720e01, 1.5929113202e02, 5.0434271938e01, 3.3871327179e00)
_B = (6.7187563600e01, 7.8757757664e01, 1.7895169469e01, 1.0)
_C = (1.7023821103e-01, 1.3067284816e00, 2.7568153900e00, 1.4234372777e00)
_D = (1.2021132975e-01, 7.3700164250e-01, 1.0)


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    y = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y = y * x + coefficient
    return y


def log1p_polynomial(f: Tensor, exponent: Tensor) -> Tensor:
    """log(1 + f) + exponent * log(2) for f in [sqrt(1/2) - 1, sqrt(2) - 1]; both float32, same shape."""
    z = f * f
    y = _horner(f, _LOG_POLYNOMIAL)
    y = (y * f) * z
    y = y + _LN2_LOW * exponent
    y = y - 0.5 * z
    return (f + y) + _LN2_HIGH * exponent


def log(x: Tensor) -> Tensor:
    """Natural logarithm of positive normal float32 numbers, any shape; other values are not supported."""
    bits = x.view(torch.int32)
    exponent = (bits >> 23) - 126
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(torch.float32)  # in [0.5, 1)
    small = mantissa < 0.70710678
    exponent = torch.where(small, exponent - 1, exponent)
    f = torch.where(small, mantissa + mantissa - 1.0, mantissa - 1.0)
    return log1p_polynomial(f, exponent.to(torch.float32))


def exp(x: Tensor) -> Tensor:
    """Exponential of float32 numbers, any shape; exp(-87.3) below -87.3, +inf above 88.37."""
    # Above 88.37 the exponent n reaches 128, whose bits are those of infinity.
    x = x.clamp(-87.3, 88.7)
    n = torch.floor(1.44269504088896341 * x + 0.5)
    x = x - n * _LN2_HIGH
    x = x - n * _LN2_LOW
    z = x * x
    y = ((_horner(x, _EXP_POLYNOMIAL) * z) + x) + 1.0
    return y * ((n.to(torch.int32) + 127) << 23).view(torch.float32)


def square_root(x: Tensor) -> Tensor:
    """Correctly rounded square root of non-negative float32 numbers, any shape."""
    # torch.sqrt of float32 may be off by one in the last place (a vector math library computes it on CPUs);
    # from float64 the rounding is exact, since 53 bits are more than twice 24 plus two.
    return torch.sqrt(x.to(torch.float64)).to(torch.float32)


def normal_from_words(words: Tensor) -> Tensor:
    """Standard normal values from 32-bit words.

    Args:
        words: int64, any shape, values in [0, 2**32). The top bit is the sign, the other 31 bits the tail
            probability.

    Returns:
        float32, same shape, in about [-6.34, 6.34].
    """
    tail = ((words & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-32  # in (0, 0.5]
    q = 0.5 - tail
    r = 0.180625 - q * q
    centre = (q * _horner(r, _A)) / _horner(r, _B)
    r = square_root(-log(tail)) - 1.6
    far = _horner(r, _C) / _horner(r, _D)
    z = torch.where(q <= 0.425, centre, far)
    return torch.where(words >= 0x80000000, -z, z)


def gumbel_from_words(words: Tensor) -> Tensor:
    """Standard Gumbel values, ``-log(-log(1 - x))`` with x uniform, from 32-bit words.

    Args:
        words: int64, any shape, values in [0, 2**32).

    Returns:
        float32, same shape, in about [-3.13, 22.9]. Both tails are resolved: small x goes through a series of
        log(1 - x), not through a rounded 1 - x.
    """
    x = _open_unit(words)
    y = _open_unit(words ^ 0xFFFFFFFF)  # 1 - x, without the cancellation
    small = x < 0.29
    series = log1p_polynomial(-torch.where(small, x, 0.25), torch.zeros_like(x))
    exponential = -torch.where(small, series, log(y))
    return -log(exponential)


def _open_unit(words: Tensor) -> Tensor:
    high = (words >> 16).to(torch.float32)
    low = (words & 0xFFFF).to(torch.float32)
    return ((high * 65536.0 + low) + 0.5) * 2.0**-32
