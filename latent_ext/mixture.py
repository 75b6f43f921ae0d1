"""Mixtures: trajectories of one question drawn by different samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latent_ext.samplers import (
    GaussianNoise,
    HeadNoise,
    MCDropout,
    Sampler,
    Scope,
    as_sampler,
)

_GRAMMAR = "'mix(SAMPLER|SAMPLER|...)', at least two, for example 'mix(dropout:0.2|noise:0.6|none)'"


@dataclass(frozen=True)
class Mixture:
    """Trajectory n is drawn by sampler n mod k of k; one that is named twice draws twice as many.

    A trajectory is the one that a run of its own sampler has under the same number and key.

    Args:
        samplers: at least two, of one scope.

    Raises:
        ValueError: for fewer than two samplers, or two scopes.

    Example:
        >>> str(Mixture.parse("mix(dropout:0.2|none)").of_trajectory(3))
        'none'
    """

    samplers: tuple[Sampler, ...]

    def __post_init__(self) -> None:
        if len(self.samplers) < 2:
            raise ValueError(
                f"samplers: got {len(self.samplers)}; a mixture of at least two samplers is needed"
            )
        scopes = sorted({sampler.scope for sampler in self.samplers})
        if len(scopes) > 1:
            raise ValueError(f"samplers: got scopes {' and '.join(scopes)}; one scope for all is needed")

    @classmethod
    def parse(cls, text: str, *, scope: Scope = "latent") -> Mixture:
        """Reads the text form; between its bars stand samplers as `Sampler.parse` reads them.

        Raises:
            ValueError: if `text` does not follow the grammar, which the message states.
        """
        stripped = text.strip()
        inner = stripped[len("mix(") : -1]
        if not (stripped.startswith("mix(") and stripped.endswith(")")) or "|" not in inner:
            raise ValueError(f"sampler: got {text!r}; allowed is {_GRAMMAR}")
        return cls(tuple(Sampler.parse(part, scope=scope) for part in inner.split("|")))

    @property
    def scope(self) -> Scope:
        """That of all samplers."""
        return self.samplers[0].scope

    def of_trajectory(self, n: int) -> Sampler:
        """The sampler that draws trajectory n."""
        return self.samplers[n % len(self.samplers)]

    def to_dict(self) -> dict[str, Any]:
        """Everything that a result records about how trajectories were drawn."""
        return {
            "sampler": str(self),
            "scope": self.scope,
            "samplers": [sampler.to_dict() for sampler in self.samplers],
        }

    def __str__(self) -> str:
        return f"mix({'|'.join(map(str, self.samplers))})"


def as_sampler_or_mixture(
    sampler: Sampler | Mixture | MCDropout | GaussianNoise | HeadNoise | str, scope: Scope | None = None
) -> Sampler | Mixture:
    """As `as_sampler`, with mixtures and their text form.

    Raises:
        ValueError: for a text outside the grammar, or a scope that is not allowed.
        TypeError: for another type.
    """
    if isinstance(sampler, str) and sampler.strip().startswith("mix("):
        return Mixture.parse(sampler, scope=scope or "latent")
    if isinstance(sampler, Mixture):
        return Mixture(tuple(as_sampler(member, scope) for member in sampler.samplers))
    return as_sampler(sampler, scope)


def members(sampler: Sampler | Mixture) -> tuple[Sampler, ...]:
    """The samplers of a mixture, each once, in their order; of a sampler itself alone."""
    return tuple(dict.fromkeys(sampler.samplers)) if isinstance(sampler, Mixture) else (sampler,)
