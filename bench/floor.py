"""The time that the arithmetic of a run (`latent_ext.engine.flops`) takes at the machine's fma peak."""

from __future__ import annotations

from latent_ext import _native


def multiply_add_rate(seconds: float = 0.25) -> float:
    """GFLOP/s of one thread that does nothing but fma in registers, measured now."""
    return float(_native.multiply_add_rate(seconds))
