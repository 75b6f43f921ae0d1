"""Which random numbers a latent step gets to see, and whether a family knows what its sampler asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_rule import Draw, ThoughtRule
from latent_ext.samplers import Sampler


def check_sampler(model: LatentModel, sampler: Sampler) -> None:
    """Refuses a sampler with a part that does nothing in this family, or that the model's switches exclude.

    Raises:
        ValueError: naming the part and those that are allowed; for any part, where there are no thoughts (T = 0).
    """
    if model.family.latent_length == 0 and not sampler.deterministic:
        raise ValueError(
            f"sampler: got {str(sampler)!r}; with latent_length=0 there are no thoughts to sample: 'none' is allowed, "
            "and a temperature for the tokens"
        )
    if sampler.head is not None and "head" not in model.feedback.randomness:
        raise ValueError(f"sampler: got {str(sampler)!r}; this model has no Gaussian head to draw from")
    if model.semantics.pads == "visible" and sampler.acts_in_body:
        raise ValueError(
            f"sampler: got {str(sampler)!r}; with pads='visible' no dropout and no noise on W_V is allowed"
        )
    allowed = model.feedback.randomness
    for name in sampler.active:
        if name not in allowed:
            listed = ", ".join(allowed) or "none"
            raise ValueError(
                f"sampler: {name!r} does not act in the family {model.family.name!r}; allowed are {listed}"
            )


def feed(thought: Tensor, draw: Draw, *, reference: bool = False) -> Tensor:
    """A formed thought as it is fed, [rows, hidden]: with the sampler's Gaussian noise, where there is any."""
    noise = draw.parts.get("noise")
    fed = torch.empty_like(thought)
    (ops.next_thought_reference if reference else ops.next_thought)(
        thought,
        None,
        None,
        None,
        draw.keys,
        draw.positions,
        draw.seed,
        sigma=noise.sigma if noise else 0.0,
        relative=bool(noise and noise.relative),
        next_input=fed,
    )
    return fed


def rule_of(model: LatentModel) -> ThoughtRule:
    """The feedback of a model whose thoughts are formed by a rule."""
    feedback = model.feedback
    assert isinstance(feedback, ThoughtRule)
    return feedback
