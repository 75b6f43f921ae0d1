"""Parts of a sampler beside dropout and noise on thoughts: noise on W_V, initial states of depth recurrence, soft tokens.

Value objects like `latent_ext.samplers.MCDropout`; a `latent_ext.samplers.Sampler` holds them in ``parts``. Which of them
a family takes is said by its feedback (``randomness``), and others are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar


def exact_text(value: float) -> str:
    """The shorter text of `value` that reads back as the same number: a recorded sampler can be rebuilt."""
    short = f"{value:g}"
    text = short if float(short) == value else repr(float(value))
    return text.replace("e+", "e")  # "+" joins two parts


def _check(name: str, value: float, *, above_zero: bool = False) -> None:
    if not (0.0 <= value < math.inf) or (above_zero and value == 0.0):
        raise ValueError(
            f"{name}: got {value!r}; a finite number {'> 0' if above_zero else '>= 0'} is needed"
        )


@dataclass(frozen=True)
class InitialState:
    """Random initial state of every token that thinks in depth (Huginn, arXiv 2502.05171).

    A normal of the model's own standard deviation, cut at three of them; without this part the state is zero.

    Args:
        scale: factor on the standard deviation; 1 is as published (``init_scale``).

    Raises:
        ValueError: if `scale` is negative or not finite.
    """

    scale: float = 1.0
    name: ClassVar[str] = "state"
    grammar: ClassVar[str] = "state[:SCALE]"

    def __post_init__(self) -> None:
        _check("scale", self.scale)

    @property
    def acts(self) -> bool:
        return self.scale > 0.0

    def __str__(self) -> str:
        return f"state:{exact_text(self.scale)}"


SCHEDULES = ("fixed", "geom", "sqrt", "line", "chi")


@dataclass(frozen=True)
class MixedNoise:
    """Huginn's own noise: before every depth step the state is mixed with a normal and normed again.

    x <- norm((1 - n) x + n e), with n = share * the standard deviation of the initial state, at step t = 0, 1, ...:
    "fixed": n; "geom": n / (t + 1); "sqrt": n / sqrt(t + 1); "line": max(n, 1 - t / T), with T the depth that the model
    was trained for; "chi": 2 u n with u uniform, drawn for every row (published: one for the whole batch).

    Args:
        share: published ``test_time_noise``, >= 0.
        schedule: published ``test_time_noise_type``.

    Raises:
        ValueError: naming the argument that is not allowed.
    """

    share: float
    schedule: str = "fixed"
    name: ClassVar[str] = "mix"
    grammar: ClassVar[str] = "mix:SHARE[:fixed|geom|sqrt|line|chi]"

    def __post_init__(self) -> None:
        _check("share", self.share)
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: got {self.schedule!r}; allowed are {', '.join(SCHEDULES)}")

    @property
    def acts(self) -> bool:
        return self.share > 0.0

    def at(self, t: int, std: float, depth: int) -> float:
        """n at step t of every schedule but "chi"; `std` is that of the initial state, `depth` the trained one."""
        n = self.share * std
        if self.schedule == "geom":
            return n / (t + 1)
        if self.schedule == "sqrt":
            return n / math.sqrt(t + 1)
        return max(n, (depth - t) / depth) if self.schedule == "line" else n

    def __str__(self) -> str:
        return f"mix:{exact_text(self.share)}" + ("" if self.schedule == "fixed" else f":{self.schedule}")


@dataclass(frozen=True)
class GumbelNoise:
    """Gumbel noise on the weights of a soft token (Soft Thinking's Gumbel-softmax; Latent-GRPO, arXiv 2604.27998).

    weights = softmax((log p + scale * g) / tau).

    Args:
        scale: factor on the noise, >= 0.
        tau: temperature of the noisy weights, > 0.
        one_sided: Latent-GRPO's option: noise clamped to [-1.5, 3] is shifted to [0, 4.5]. Nothing elsewhere.

    Raises:
        ValueError: if `scale` or `tau` is outside its range.
    """

    scale: float = 1.0
    tau: float = 1.0
    one_sided: bool = False
    name: ClassVar[str] = "gumbel"
    grammar: ClassVar[str] = "gumbel[:SCALE[:TAU[:one-sided]]]"

    def __post_init__(self) -> None:
        _check("scale", self.scale)
        _check("tau", self.tau, above_zero=True)

    @property
    def acts(self) -> bool:
        return self.scale > 0.0 or self.tau != 1.0

    def __str__(self) -> str:
        tail = ":one-sided" if self.one_sided else ""
        tau = f":{exact_text(self.tau)}" if tail or self.tau != 1.0 else ""
        return f"gumbel:{exact_text(self.scale)}{tau}{tail}"


@dataclass(frozen=True)
class DirichletNoise:
    """A soft token's weights are drawn from Dirichlet(alpha * p) (Soft Thinking's code; not used in its paper).

    Args:
        alpha: concentration, > 0; the larger, the closer to p.

    Raises:
        ValueError: if `alpha` is not above zero or not finite.
    """

    alpha: float
    name: ClassVar[str] = "dirichlet"
    grammar: ClassVar[str] = "dirichlet:ALPHA"
    acts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("alpha", self.alpha, above_zero=True)

    def __str__(self) -> str:
        return f"dirichlet:{exact_text(self.alpha)}"


@dataclass(frozen=True)
class SingularValueNoise:
    """Singular-value perturbation of every layer's value projection (SVP, 2026; jihwan1205/Singular-Value-Perturbation).

    W_V = U diag(s) V^T becomes U diag(s (1 + alpha g)) V^T, with g standard normal for each singular value, layer and
    trajectory, the same at all positions; the answer is read with W_V itself. Published with scope "prompt+latent".

    Args:
        alpha: standard deviation in units of the singular value, >= 0 (published: 0.6 for COCONUT, 0.5 for CODI).

    Raises:
        ValueError: if `alpha` is negative or not finite.
    """

    alpha: float
    name: ClassVar[str] = "svp"
    grammar: ClassVar[str] = "svp:ALPHA"

    def __post_init__(self) -> None:
        _check("alpha", self.alpha)

    @property
    def acts(self) -> bool:
        return self.alpha > 0.0

    def __str__(self) -> str:
        return f"svp:{exact_text(self.alpha)}"


@dataclass(frozen=True)
class ValueWeightNoise:
    """Gaussian noise on every weight of every layer's W_V, fixed for the trajectory: the dense counterpart of SVP.

    Args:
        sigma: standard deviation of a weight, >= 0 (published as a control of SVP: 0.06 for COCONUT).

    Raises:
        ValueError: if `sigma` is negative or not finite.
    """

    sigma: float
    name: ClassVar[str] = "wv"
    grammar: ClassVar[str] = "wv:SIGMA"

    def __post_init__(self) -> None:
        _check("sigma", self.sigma)

    @property
    def acts(self) -> bool:
        return self.sigma > 0.0

    def __str__(self) -> str:
        return f"wv:{exact_text(self.sigma)}"


PARTS: dict[str, Any] = {
    part.name: part
    for part in (SingularValueNoise, ValueWeightNoise, InitialState, MixedNoise, GumbelNoise, DirichletNoise)
}


def read_part(name: str, text: str) -> Any:
    """The part `name` from what follows its name in the text form.

    Raises:
        LookupError: if the text does not follow the part's grammar.
        ValueError: if a number is outside its range.
    """
    fields = text.split(":") if text else []
    numbers = 2 if name == "gumbel" else 1
    values: list[Any] = []
    for place, written in enumerate(fields):
        if place < numbers:
            try:
                values.append(float(written))
            except ValueError:
                raise LookupError(written) from None
        elif name == "mix" and place == 1 and written in SCHEDULES:
            values.append(written)
        elif name == "gumbel" and place == 2 and written == "one-sided":
            values.append(True)
        else:
            raise LookupError(written)
    if not values and name not in ("state", "gumbel"):
        raise LookupError(text)
    return PARTS[name](*values)
