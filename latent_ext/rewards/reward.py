"""What a reward is: it says what it needs of a question's trajectories, and scores those that have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from latent_ext.models.latent_model import LatentModel

Need = Literal["thoughts", "answers", "noise_free"]

# Step scores, whose sum is the trajectory's score; one score of the whole; or none: never selected.
Scored: TypeAlias = "Sequence[float] | float | None"


@dataclass(frozen=True)
class Seen:
    """What is known of the usable trajectories of one question when a reward scores them.

    Attributes:
        prompt: int64 [length] ids.
        thoughts: per trajectory [steps, hidden], as fed to the model; None where they are not needed.
        tokens: per trajectory the answer's token ids, without the end-of-sequence token.
        answers: per trajectory the canonical answer; None where there is none.
        logprobs: per trajectory the sum of the log probabilities of its answer's tokens, natural logarithm.
        noise_free_answer: canonical answer of one trajectory without randomness; None where there is none, or it is
            not needed.
        noise_free_tokens: its token ids; empty likewise.
    """

    prompt: Tensor
    thoughts: list[Tensor] | None
    tokens: list[list[int]]
    answers: list[str | None]
    logprobs: list[float | None]
    noise_free_answer: str | None
    noise_free_tokens: list[int]


@runtime_checkable
class Reward(Protocol):
    """Anything with these four can be given to ``latent_ext.solve(reward=...)``.

    All answers are decoded before it is asked. A :class:`latent_ext.LatentRM` is one, too; at its real positions
    engines score it while the thoughts are formed, so that the winner's answer alone is needed and beams can be pruned.

    Attributes:
        name: recorded in the settings of every result; enough to tell two rewards apart.
        needs: "thoughts": they are kept until they are scored. "answers": scores come from decoded answers.
            "noise_free": one trajectory without randomness more per question, whatever N is.

    A reward may also have ``by_trajectory = True``: the score of a trajectory does not depend on those that are scored with
    it, so that an adaptive budget can ask for them round by round.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[Need]: ...

    def concerns(self, sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
        """Why its scores may mislead on trajectories of this sampler and generator; each becomes a warning.

        Args:
            sampler: what `latent_ext.Sampler.to_dict` gives.
            generator_hash: `LatentModel.weights_hash`.
        """

    def score(self, model: LatentModel, seen: Seen) -> Sequence[Scored]:
        """One entry per trajectory: step scores, one score, or None for what is never to be selected."""


def kind_of(reward: Reward) -> str:
    """A reward's name without the weights that may follow it in brackets: how errors speak of it."""
    return reward.name.partition("(")[0]


def unlike(trained_on: Mapping[str, Any], sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
    """How trajectories differ from those a reward was trained on, one text per difference.

    Only what was recorded is compared. Of the dropped sites and the scope a difference counts where there is dropout.
    """
    given = {**sampler, "generator_hash": generator_hash}
    names = ["sampler", "generator_hash"] + (["scope", "sites"] if sampler.get("p") else [])
    return [
        f"{name} {trained_on[name]!r}, not {given[name]!r}"
        for name in names
        if trained_on.get(name) is not None and trained_on[name] != given[name]
    ]


def trained_elsewhere(
    name: str, trained_on: Mapping[str, Any], sampler: Mapping[str, Any], generator_hash: str
) -> list[str]:
    """`Reward.concerns` of a reward that records what it was trained on."""
    differing = unlike(trained_on, sampler, generator_hash)
    return [f"{name} was trained on trajectories of {'; '.join(differing)}"] if differing else []
