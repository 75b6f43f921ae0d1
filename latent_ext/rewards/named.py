"""A reward by its name: those without training, a file of answer-reading weights, or a LatentRM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from latent_ext.assets import SHIPPED_ANSWER_READING
from latent_ext.hints import did_you_mean
from latent_ext.rewards.answer_logprob import AnswerLogprob
from latent_ext.rewards.answer_reading import AnswerReading
from latent_ext.rewards.deviation import Deviation
from latent_ext.rewards.latent_rm import Positions
from latent_ext.rewards.latent_rm_files import SHIPPED, load_reward
from latent_ext.rewards.reward import Reward

NAMED: dict[str, Callable[[], Reward]] = {
    "deviation": Deviation,
    "answer_logprob": AnswerLogprob,
    "answer_reading": lambda: AnswerReading.load(SHIPPED_ANSWER_READING),
}


def as_reward(
    reward: Reward | str | Path, *, device: str | torch.device = "cpu", positions: Positions = "real"
) -> Reward:
    """The reward itself, or the one that a text names.

    Args:
        reward: a reward; or "deviation", "answer_logprob", "answer_reading" (fitted on the shipped model), a ``.json``
            file written by `AnswerReading.save`, or what `load_reward` takes ("shipped", "answer_rm", a place).
        device: of a LatentRM that is loaded.
        positions: of a LatentRM that is loaded, "real" or "published"; others read no positions.

    Raises:
        TypeError: for what is neither a text nor a reward.
        ValueError: for a name or a place where there is no reward, and as `AnswerReading.load` and `load_reward` raise.
    """
    if isinstance(reward, (str, Path)):
        text = str(reward)
        if text in NAMED:
            return NAMED[text]()
        if text.endswith(".json"):
            if not Path(text).exists():
                raise ValueError(f"reward: got {text!r}; there is no such file")
            return AnswerReading.load(text)
        if text not in SHIPPED and "/" not in text and not Path(text).exists():
            raise ValueError(
                f"reward: got {text!r}{did_you_mean(text, (*SHIPPED, *NAMED))}; allowed are {', '.join(SHIPPED)}, "
                f"{', '.join(NAMED)}, a .json file of AnswerReading, and a LatentRM's directory or Hub id (owner/name)"
            )
        best = Path(text) / "best"
        if best.is_dir() and not (Path(text) / "config.json").exists():
            raise ValueError(f"reward: got {text!r}, what train-rm wrote; its best LatentRM is {best}")
        return load_reward(text, device=device, positions=positions)
    if not isinstance(reward, Reward):
        raise TypeError(
            f"reward: got {type(reward).__name__}; a reward (name, needs, concerns, score), "
            f"{', '.join(NAMED)}, a .json file of AnswerReading, or a LatentRM's place is needed"
        )
    return reward
