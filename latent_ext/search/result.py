"""What a run gives back: every trajectory, and the one that was chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from latent_ext.engine.base import SearchStep
from latent_ext.engine.flops import Cost


@dataclass
class Trajectory:
    """One sampled trajectory.

    Attributes:
        index: n, 0-based.
        key: its 64-bit trajectory key (signed).
        steps: number of its thoughts.
        text: decoded answer text; None where it was not decoded.
        answer: canonical answer; None where there is none.
        tokens: answer token ids; None where it was not decoded.
        logprob: sum of the log probabilities of the answer's tokens; None where it was not decoded.
        finished: whether the answer ended by itself; None where it was not decoded.
        score: sum of the step scores; None without a reward.
        step_scores: score of each thought; None without a reward.
        thoughts: [steps, hidden], where asked for.
        error: what makes this trajectory unusable, for example a thought that is not finite.
        parent: index of the trajectory that it continues; None for one that was drawn from the beginning.
        inherited: how many of its thoughts, the first ones, are its parent's; None without a parent.
    """

    index: int
    key: int
    steps: int | None = None
    text: str | None = None
    answer: str | None = None
    tokens: list[int] | None = None
    logprob: float | None = None
    finished: bool | None = None
    score: float | None = None
    step_scores: list[float] | None = None
    thoughts: Tensor | None = None
    error: str | None = None
    parent: int | None = None
    inherited: int | None = None

    def set_scores(self, step_scores: list[float]) -> None:
        """Step scores and their sum; a sum that is not finite is an error and no score."""
        self.step_scores, self.score = step_scores, sum(step_scores)
        if not math.isfinite(self.score):
            self.error, self.score = "the score is not finite", None

    def forget_answer(self) -> None:
        """Back to the state of a trajectory that was not decoded."""
        self.text = self.answer = self.tokens = self.logprob = self.finished = None

    def to_dict(self) -> dict[str, Any]:
        fields = (
            "index",
            "parent",
            "inherited",
            "steps",
            "answer",
            "text",
            "logprob",
            "finished",
            "score",
            "step_scores",
            "error",
        )
        return {
            name: getattr(self, name)
            for name in fields
            if getattr(self, name) is not None or name == "answer"
        }


@dataclass
class Result:
    """The outcome for one question.

    Attributes:
        question: as given.
        trajectories: all N, in order.
        select: the selection rule.
        chosen: index of the chosen trajectory; None where nothing could be chosen.
        votes: weight of each answer among the decoded trajectories, heaviest first.
        settings: everything that the numbers depend on: sampler, scope, sites, p, sigma, seed, n, engine,
            rung, model; and `budget`, what a question of the longest prompt could cost at the most
            (`latent_ext.engine.flops.expand`).
        cost: prompt tokens, thoughts, answer tokens and floating point operations that the question did take
            (`latent_ext.engine.flops.Cost`, which says where operations cannot be counted).
        search: with ``return_search=True``, the candidates of each thought of a beam search; else None.
    """

    question: str
    trajectories: list[Trajectory]
    select: str
    chosen: int | None
    votes: dict[str, float]
    settings: dict[str, Any] = field(default_factory=dict)
    cost: Cost | None = None
    search: list[SearchStep] | None = None

    @property
    def best(self) -> Trajectory | None:
        """The chosen trajectory."""
        return None if self.chosen is None else self.trajectories[self.chosen]

    @property
    def answer(self) -> str | None:
        """The chosen trajectory's answer."""
        return None if self.best is None else self.best.answer

    @property
    def answers(self) -> list[str | None]:
        """Canonical answers by trajectory."""
        return [trajectory.answer for trajectory in self.trajectories]

    @property
    def scores(self) -> list[float | None]:
        """Scores by trajectory."""
        return [trajectory.score for trajectory in self.trajectories]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; thoughts are left out."""
        found = {
            "question": self.question,
            "answer": self.answer,
            "score": None if self.best is None else self.best.score,
            "chosen": self.chosen,
            "select": self.select,
            "votes": self.votes,
            "trajectories": [trajectory.to_dict() for trajectory in self.trajectories],
            "settings": self.settings,
        }
        if self.cost is not None:
            found["cost"] = self.cost.to_dict()
        if self.search is not None:
            found["search"] = [
                {name: getattr(step, name).tolist() for name in ("parents", "scores", "ranks", "kept")}
                for step in self.search
            ]
        return found
