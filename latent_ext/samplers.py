"""Samplers: where randomness enters the latent phase, and how much of it.

A :class:`Sampler` is a value object. It owns no generator: every number is a function of the run seed, the
trajectory key, the position and the site (``latent_ext.ops.philox``), so a sampler can be shared, recorded in
a result and rebuilt from its text form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from latent_ext.hints import did_you_mean
from latent_ext.sampler_parts import (
    PARTS,
    SingularValueNoise,
    ValueWeightNoise,
    exact_text,
    read_part,
)

Scope = Literal["latent", "prompt+latent"]
Sites = Literal["residual", "residual+embedding"]
Per = Literal["step", "trajectory"]

SCOPES: tuple[str, ...] = get_args(Scope)
SITES: tuple[str, ...] = get_args(Sites)

# How each part of a sampler is written.
GRAMMAR = {
    "dropout": "dropout:P[:step|trajectory]",
    "noise": "noise:SIGMA[:absolute|relative]",
    "head": "head[:TEMPERATURE]",
    **{name: part.grammar for name, part in PARTS.items()},
}


@dataclass(frozen=True)
class MCDropout:
    """Monte-Carlo dropout (LatentTTS, arXiv 2510.07745, section 3.1: epistemic sampling).

    Args:
        p: drop probability in [0, 1), exact to 2**-32. Published values: 0.1 to 0.3 for GPT-2 size models,
            0.01 to 0.03 for Llama-1B size.
        per: "step" draws a fresh mask at every position, as published; "trajectory" keeps one mask per site
            for the whole trajectory (one sub-network per trajectory).
        sites: "residual": the attention and MLP outputs of each block (on Llama the MLP output alone), the
            published coverage setting;
            "residual+embedding" also drops the input vector of the position.

    Raises:
        ValueError: naming the argument that is outside its range.
    """

    p: float
    per: Per = "step"
    sites: Sites = "residual"

    def __post_init__(self) -> None:
        if not 0.0 <= self.p < 1.0:
            raise ValueError(f"p: got {self.p!r}; a drop probability in [0, 1) is needed")
        if self.per not in get_args(Per):
            raise ValueError(f"per: got {self.per!r}; allowed are {', '.join(get_args(Per))}")
        if self.sites not in SITES:
            raise ValueError(f"sites: got {self.sites!r}; allowed are {', '.join(SITES)}")

    def __str__(self) -> str:
        return f"dropout:{exact_text(self.p)}" + (":trajectory" if self.per == "trajectory" else "")


@dataclass(frozen=True)
class GaussianNoise:
    """Gaussian noise on every thought before it is fed back (LatentTTS, section 3.1: aleatoric sampling).

    Args:
        sigma: standard deviation, >= 0, in units of the thought's coordinates (published: 0.5 to 0.7 for
            GPT-2 size models).
        relative: sigma is in units of the thought's root mean square instead.

    Raises:
        ValueError: if sigma is negative or not finite.
    """

    sigma: float
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma < float("inf"):
            raise ValueError(f"sigma: got {self.sigma!r}; a finite standard deviation >= 0 is needed")

    def __str__(self) -> str:
        return f"noise:{exact_text(self.sigma)}" + (":relative" if self.relative else "")


@dataclass(frozen=True)
class HeadNoise:
    """Thoughts drawn from the model's own Gaussian head: mean + temperature * std * normal (CoLaR, arXiv 2505.16552).

    Args:
        temperature: factor >= 0 on the learned standard deviation (published: 1).

    Raises:
        ValueError: if temperature is negative or not finite.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: got {self.temperature!r}; a finite factor >= 0 is needed")

    def __str__(self) -> str:
        return "head" if self.temperature == 1.0 else f"head:{exact_text(self.temperature)}"


@dataclass(frozen=True)
class Sampler:
    """Dropout, noise, both or neither, what single families know, and the scope in which it acts.

    Args:
        dropout: None for none.
        noise: None for none.
        head: None for the head's mean; excludes `noise`, since both add a normal value to every coordinate.
        scope: "latent": the prompt but for its last token is read once, clean, and shared by all trajectories
            of a question; the pass over the last prompt token, which yields the first thought, and the passes
            over z_1 .. z_{T-1} are stochastic; z_T and the answer are read clean. "prompt+latent": dropout
            and noise on W_V also act while the whole prompt is read (the published behaviour of both), so every
            trajectory reads its own prompt. Noise on thoughts touches them alone, in either scope.
            In a depth-recurrent model every token of the trajectory thinks, so randomness acts in the last prompt token
            and the answer ("latent") or in all tokens ("prompt+latent", as published).
        parts: of `latent_ext.sampler_parts`, at most one of a kind.

    Example:
        >>> Sampler.parse("dropout:0.2").dropout.p
        0.2
        >>> str(Sampler(noise=GaussianNoise(0.4, relative=True)))
        'noise:0.4:relative'
    """

    dropout: MCDropout | None = None
    noise: GaussianNoise | None = None
    scope: Scope = "latent"
    head: HeadNoise | None = None
    parts: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ValueError(f"scope: got {self.scope!r}; allowed are {', '.join(SCOPES)}")
        names = [getattr(part, "name", type(part).__name__) for part in self.parts]
        if len(set(names)) < len(names) or not set(names) <= set(PARTS):
            raise ValueError(f"parts: got {', '.join(names)}; allowed are {', '.join(PARTS)}, one of each")
        if self.noise is not None and self.head is not None:
            raise ValueError(f"head: got {self.head} beside {self.noise}; one of the two is allowed")

    @property
    def drops(self) -> bool:
        """Whether dropout with p > 0 acts."""
        return self.dropout is not None and self.dropout.p > 0.0

    @property
    def svp(self) -> float:
        """alpha of singular-value noise on W_V, 0 for none."""
        return next((part.alpha for part in self.parts if isinstance(part, SingularValueNoise)), 0.0)

    @property
    def wv(self) -> float:
        """sigma of dense noise on W_V, 0 for none."""
        return next((part.sigma for part in self.parts if isinstance(part, ValueWeightNoise)), 0.0)

    @property
    def acts_in_body(self) -> bool:
        """Whether passes through the body are stochastic, so that each trajectory needs its own."""
        return self.drops or self.svp > 0.0 or self.wv > 0.0

    @property
    def own_prompts(self) -> bool:
        """Whether the whole prompt is read under it, so that each trajectory needs its own reading."""
        return self.acts_in_body and self.scope == "prompt+latent"

    @property
    def noisy(self) -> bool:
        """Whether noise with sigma > 0 acts."""
        return self.noise is not None and self.noise.sigma > 0.0

    @property
    def deterministic(self) -> bool:
        """Whether all trajectories of a question share their thoughts."""
        return not self.active

    @property
    def active(self) -> dict[str, Any]:
        """What does something, by the name of its text form."""
        found: dict[str, Any] = {"dropout": self.dropout} if self.drops else {}
        if self.noisy:
            found["noise"] = self.noise
        if self.draws_from_head:
            found["head"] = self.head
        return found | {part.name: part for part in self.parts if part.acts}

    @property
    def draws_from_head(self) -> bool:
        """Whether a head's learned deviation acts."""
        return self.head is not None and self.head.temperature > 0.0

    @property
    def sigma(self) -> float:
        """What ``next_thought`` multiplies normal values by: the noise's sigma, or the head's temperature."""
        return self.noise.sigma if self.noise else self.head.temperature if self.head else 0.0

    @classmethod
    def parse(cls, text: str, *, scope: Scope = "latent", sites: Sites = "residual") -> Sampler:
        """Reads the text form that the command line and recipes use.

        Raises:
            ValueError: if ``text`` does not follow the grammar (`GRAMMAR`, parts joined by "+"); the message says where.
        """
        sampler = cls(scope=scope)
        if text.strip() == "none":
            return sampler
        named: list[str] = []
        for part in text.split("+"):
            kind, colon, rest = part.strip().partition(":")
            if kind not in GRAMMAR or kind in named:
                raise ValueError(f"sampler: got {text!r}; {_why_not(kind)}")
            named.append(kind)
            malformed = ValueError(f"sampler: got {text!r}; {kind} is written {GRAMMAR[kind]}")
            if kind in PARTS:
                try:
                    sampler = replace(sampler, parts=(*sampler.parts, read_part(kind, rest)))
                except LookupError:
                    raise malformed from None
                continue
            if kind == "head" and not colon:
                rest = "1"
            number, _, variant = rest.partition(":")
            try:
                value = float(number)
            except ValueError:
                raise malformed from None
            if kind == "dropout" and variant in ("", "step", "trajectory"):
                per: Per = "trajectory" if variant == "trajectory" else "step"
                sampler = replace(sampler, dropout=MCDropout(value, per=per, sites=sites))
            elif kind == "noise" and variant in ("", "absolute", "relative"):
                sampler = replace(sampler, noise=GaussianNoise(value, relative=variant == "relative"))
            elif kind == "head" and variant == "":
                sampler = replace(sampler, head=HeadNoise(value))
            else:
                raise malformed
        return sampler

    def to_dict(self) -> dict[str, Any]:
        """Everything that a result or a LatentRM records about how trajectories were drawn."""
        return {
            "sampler": str(self),
            "p": self.dropout.p if self.dropout else 0.0,
            "per": self.dropout.per if self.dropout else None,
            "sites": self.dropout.sites if self.dropout else None,
            "sigma": self.noise.sigma if self.noise else 0.0,
            "relative": self.noise.relative if self.noise else None,
            "temperature_of_head": self.head.temperature if self.head else 0.0,
            "svp": self.svp,
            "wv": self.wv,
            "scope": self.scope,
        }

    def __str__(self) -> str:
        return (
            "+".join(
                str(part) for part in (self.dropout, self.noise, self.head, *self.parts) if part is not None
            )
            or "none"
        )


def _why_not(kind: str) -> str:
    """Why a part of this kind cannot stand where it stands."""
    if kind in GRAMMAR:
        return f"{kind} stands twice"
    if kind == "none":
        return "none stands alone"
    what = f"{kind!r} is no part of a sampler{did_you_mean(kind, (*GRAMMAR, 'none'))}"
    return (
        f"{what}; allowed are none, or one or more of {', '.join(GRAMMAR.values())}, joined by '+', for example "
        "dropout:0.1+noise:0.6"
    )


def as_sampler(
    sampler: Sampler | MCDropout | GaussianNoise | HeadNoise | str, scope: Scope | None = None
) -> Sampler:
    """Accepts every form in which a user may name a sampler; ``scope`` overrides the sampler's own."""
    if isinstance(sampler, str):
        return Sampler.parse(sampler, scope=scope or "latent")
    if isinstance(sampler, MCDropout):
        return Sampler(dropout=sampler, scope=scope or "latent")
    if isinstance(sampler, GaussianNoise):
        return Sampler(noise=sampler, scope=scope or "latent")
    if isinstance(sampler, HeadNoise):
        return Sampler(head=sampler, scope=scope or "latent")
    if isinstance(sampler, Sampler):
        return replace(sampler, scope=scope) if scope else sampler
    raise TypeError(
        f"sampler: got {type(sampler).__name__}; allowed are Sampler, MCDropout, GaussianNoise, HeadNoise and str"
    )
