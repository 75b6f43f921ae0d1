"""How sure a LatentRM with a concentration head is of its scores (BetaPRM, arXiv 2605.15529).

Each thought's value has a Beta with mean sigmoid(score) and the concentration that the second head gives. Bounds of a
trajectory follow from the means and deviations of its thoughts; an adaptive budget stops on them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from latent_ext.rewards.latent_rm import LatentRM

# Added to every concentration, as in BetaPRM.
LEAST_CONCENTRATION = 1e-3

# Deviations that a step's value is lowered by, and that a trajectory's bounds are apart from its value (BetaPRM).
_CAUTION, _WIDTH = 0.5, 0.3


def concentration_of(raw: Tensor) -> Tensor:
    """Positive concentration from a head's output."""
    return functional.softplus(raw) + LEAST_CONCENTRATION


def is_reliable(reward: LatentRM) -> bool:
    """Whether `step_beliefs` can read this LatentRM: it has a concentration head, and reads thoughts alone."""
    plain = reward.reference == "none" and reward.answer_format is None
    return plain and reward.module.concentration is not None


@torch.no_grad()
def step_beliefs(reward: LatentRM, prompt: Tensor, thoughts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the Beta of every thought of one question's trajectories.

    The prompt is read once; what is read does not depend on the engine that formed the thoughts.

    Args:
        reward: that `is_reliable`.
        prompt: int64 [length] ids.
        thoughts: [N, T, hidden], as fed.

    Returns:
        float32 [N, T] each.

    Raises:
        ValueError: for a LatentRM without a concentration head.
    """
    head = reward.module.concentration
    if head is None:
        raise ValueError(f"reward: {reward.name} has no concentration head")
    body, weight = reward.module.body, reward.head_weight
    cache = DynamicCache()
    body(input_ids=prompt.to(weight.device).unsqueeze(0), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(thoughts))
    inputs = thoughts.to(weight.device, weight.dtype)
    hidden = body(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
    means = reward.module.score(hidden).float().sigmoid()
    concentration = concentration_of(head(hidden).squeeze(-1).float())
    return means, (means * (1.0 - means) / (concentration + 1.0)).sqrt()


def value_bounds(means: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the values of trajectories, float32 [N] each.

    Value: mean over thoughts of (mean - 0.5 deviation); bounds: 0.3 times the mean deviation below and above it.

    Args:
        means, deviations: float32 [N, T], from `step_beliefs`.
    """
    value = (means - _CAUTION * deviations).mean(dim=1)
    width = _WIDTH * deviations.mean(dim=1)
    return value - width, value + width
