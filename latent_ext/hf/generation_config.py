"""`LatentGenerationConfig`: the fields of a latent generation under the names that LatentTTS gave them."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

# Field -> default. Those of LatentTTS first, then those that only this package knows.
LATENT_FIELDS: dict[str, Any] = {
    "latent_length": None,
    "max_latent_length": None,
    "latent_do_sample": False,
    "latent_do_sample_by": None,
    "dropout_p": None,
    "noise_std": 0.1,
    "explicit_do_sample": False,
    "explicit_do_sample_by": None,
    "num_beam_candidates": None,
    "latent_id": None,
    "latent_start_id": None,
    "latent_end_id": None,
    "family": None,
    "num_paths": None,
    "sampler": None,
    "scope": None,
    "select": None,
}
# Fields of LatentTTS that change its output in a way that is not offered.
UNSUPPORTED_FIELDS: dict[str, Any] = {"latent_pooling": "mean", "concat_inputs": False}
_CHOICES = {
    "latent_do_sample_by": (None, "dropout", "noise"),
    "explicit_do_sample_by": (None, "vocab"),
    "scope": (None, "latent", "prompt+latent"),
    "select": (None, "best_of_n", "majority", "weighted_vote", "weighted_vote_raw", "beam"),
}


class LatentGenerationConfig(GenerationConfig):
    """A ``GenerationConfig`` with the latent fields; saved and loaded with the model like any other.

    Args:
        latent_length: number of thoughts T; None: that of the family.
        max_latent_length: bound on the number of thoughts, for families that decide it themselves.
        latent_do_sample: whether thoughts are sampled; False by default.
        latent_do_sample_by: "dropout" or "noise", needed with `latent_do_sample`.
        dropout_p: drop probability; None: that of the model's own dropout layers.
        noise_std: standard deviation of the noise, 0.1 by default.
        explicit_do_sample, explicit_do_sample_by: "vocab" draws the answer tokens at `temperature`.
        num_beam_candidates: next thoughts tried from each of `num_beams` beams.
        latent_id, latent_start_id, latent_end_id: token ids; None: those of the model's config or of a tokenizer.
        family: "coconut", "codi", ...; None: told by the model's weights.
        num_paths, sampler, scope, select: see `latent_ext.generate`.
        kwargs: fields of ``GenerationConfig``.

    Raises:
        ValueError: naming the field, what was given and what is allowed.

    Source: field names of LatentTTS (arXiv 2510.07745).

    Example:
        >>> import latent_ext
        >>> config = latent_ext.LatentGenerationConfig(latent_length=6, max_new_tokens=64)
        >>> config.latent_length
        6
    """

    def __init__(self, **kwargs: Any) -> None:
        latent = {name: kwargs.pop(name, default) for name, default in LATENT_FIELDS.items()}
        super().__init__(**kwargs)
        for name, value in latent.items():
            setattr(self, name, value)
        check_latent_fields(self)


def latent_field(config: GenerationConfig, name: str) -> Any:
    """A latent field of any config: one that LatentTTS's class or plain ``GenerationConfig`` made counts, too."""
    value = getattr(config, name, None)
    return LATENT_FIELDS[name] if value is None else value


def asked_length(config: GenerationConfig, family: str, default: int | None) -> int | None:
    """The number of thoughts that a config asks of a family: `latent_length`, or CoLaR's bound `max_latent_length`.

    Raises:
        ValueError: for the field that belongs to other families.
    """
    stops = family == "colar"
    own, other = ("max_latent_length", "latent_length") if stops else ("latent_length", "max_latent_length")
    if latent_field(config, other) is not None:
        whose = "a fixed number of thoughts" if stops else "rows that stop by themselves"
        raise ValueError(f"{other}: belongs to families with {whose}; {family!r} takes {own}")
    length = latent_field(config, own)
    return default if length is None else int(length)


def check_latent_fields(config: GenerationConfig) -> None:
    """Refuses what cannot be meant.

    Raises:
        ValueError: naming the field, what was given and what is allowed.
    """
    for name, allowed in _CHOICES.items():
        value = latent_field(config, name)
        if value not in allowed:
            raise ValueError(f"{name}: got {value!r}; allowed are {', '.join(map(repr, allowed))}")
    for name in ("latent_length", "max_latent_length", "num_beam_candidates", "num_paths"):
        value = latent_field(config, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: got {value!r}; a whole number >= 1 is needed")
    for doing, by in (
        ("latent_do_sample", "latent_do_sample_by"),
        ("explicit_do_sample", "explicit_do_sample_by"),
    ):
        if latent_field(config, doing) and latent_field(config, by) is None:
            choices = ", ".join(repr(choice) for choice in _CHOICES[by] if choice)
            raise ValueError(f"{by}: not given although {doing} is true; allowed are {choices}")
    if (
        latent_field(config, "latent_length") is not None
        and latent_field(config, "max_latent_length") is not None
    ):
        raise ValueError("max_latent_length: given together with latent_length; one of them is allowed")
    for name, neutral in UNSUPPORTED_FIELDS.items():
        value = getattr(config, name, None)
        if value not in (None, neutral):
            raise ValueError(f"{name}: got {value!r}; only {neutral!r} is supported")
