"""What `solve` is asked for: each argument checked before anything is computed."""

from __future__ import annotations

from torch import Tensor

from latent_ext.engine.base import Beam
from latent_ext.engine.beam import check_subtrees
from latent_ext.models.depth import DepthSteps
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.reward import Reward, kind_of
from latent_ext.search.adaptive import CONFIDENCE

# What the published script searches with (LatentTTS).
BEAMS, CANDIDATES = 4, 4


def asked_beam(
    select: str,
    n: int | None,
    beams: int | None,
    candidates: int | None,
    subtrees: int | None,
    lookahead: int | None,
) -> Beam | None:
    given = {"beams": beams, "candidates": candidates, "subtrees": subtrees, "lookahead": lookahead}
    for name, value in given.items():
        least = 0 if name == "lookahead" else 1
        if value is not None and select != "beam":
            raise ValueError(f"{name}: got {value!r} with select={select!r}; it belongs to select='beam'")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name}: got {value!r}; a whole number >= {least} is needed")
    if select != "beam":
        return None
    if n is not None:
        raise ValueError(f"n: got {n!r} with select='beam'; give beams= and candidates= instead")
    beam = Beam(beams or BEAMS, candidates or CANDIDATES, subtrees or 1, lookahead or 0)
    check_subtrees(beam, beam.keep * beam.candidates)
    return beam


def asked_confidence(select: str, confidence: float | None) -> float | None:
    """What "adaptive" stops at; None for other rules."""
    if select != "adaptive":
        if confidence is not None:
            raise ValueError(
                f"confidence: got {confidence!r} with select={select!r}; it belongs to select='adaptive'"
            )
        return None
    if confidence is None:
        return CONFIDENCE
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: got {confidence!r}; a number in (0, 1) is needed")
    return float(confidence)


def check_extend(select: str, extend: bool, scorer: LatentRM | None) -> None:
    """Refuses to continue trajectories where nothing says which and from where.

    Args:
        scorer: the LatentRM that the engine runs; None where there is none.
    """
    if not extend:
        return
    if select != "adaptive":
        raise ValueError(f"extend: got {extend!r} with select={select!r}; it belongs to select='adaptive'")
    if scorer is None:
        raise ValueError(
            "extend: got True without scores of single thoughts; it needs as reward= a LatentRM that reads thoughts alone, "
            "with positions='real'"
        )


def check_adaptive(model: LatentModel, later: Reward | None) -> None:
    """Refuses what makes a trajectory depend on those that run beside it: rounds would change it.

    Args:
        later: a reward that scores when all answers are known; None where there is none.
    """
    if later is not None and not getattr(later, "by_trajectory", False):
        raise ValueError(
            f"reward: {kind_of(later)} scores a question's trajectories together, not round by round as 'adaptive' needs; "
            "one whose by_trajectory is True does"
        )
    if model.semantics.pads == "visible":
        raise ValueError(
            "select: 'adaptive' with pads='visible'; questions that leave a batch would change it"
        )


def is_64_bits(value: object) -> bool:
    return isinstance(value, int) and -(1 << 63) <= value < 1 << 64


def encode(model: LatentModel, text: str, index: int) -> Tensor:
    try:
        return model.encode(text)
    except ValueError as error:
        raise ValueError(f"questions[{index}]: {error}") from None


def check_reward(model: LatentModel, reward: LatentRM) -> None:
    if isinstance(model.feedback, DepthSteps):
        raise ValueError(
            "reward: a LatentRM reads thoughts as positions of a text; this model's are depth steps"
        )
    if model.family.latent_length == 0:
        raise ValueError("reward: a LatentRM scores thoughts; with latent_length=0 there are none")
    place = reward.head_weight.device
    if place != model.device:
        raise ValueError(f"reward: is on {place}; the model is on {model.device}")
    blocks = reward.blocks
    if blocks.hidden_size != model.blocks.hidden_size:
        raise ValueError(
            f"reward: reads thoughts of size {blocks.hidden_size}; "
            f"this model's have {model.blocks.hidden_size}"
        )
    if blocks.max_positions < model.max_positions:
        raise ValueError(
            f"reward: has {blocks.max_positions} positions; this model's {model.max_positions} are needed"
        )
