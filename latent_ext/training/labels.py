"""Monte-Carlo labels of thoughts: how often does a trajectory come out right when it goes on from its t-th thought?

Roll-outs continue the trajectory that is scored, from its own cache, and answers are decoded to their end as
`latent_ext.solve` decodes them (LatentTTS, arXiv 2510.07745, section 3.2, estimates the same values from re-encoded
thoughts, with dropout left on in the answer).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent_ext.engine.base import LatentRequest, LatentRun
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.rollouts import Rollouts
from latent_ext.models.answers import canonical_number
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.arguments import to_signed
from latent_ext.ops.keys import question_key, rollout_key, trajectory_keys
from latent_ext.samplers import Sampler
from latent_ext.training.labelled import LabelledQuestion

POLICIES = ("sampler", "noise-free", "outcome")

# Rows of a call of the native engine: caches of many more leave the CPU's caches, fewer leave its threads idle.
_ROWS = 2048


@dataclass(frozen=True)
class LabelSettings:
    """What the labels of a question depend on, beside question and gold.

    Attributes:
        trajectories: N >= 1 per question.
        rollouts: M >= 1 from each thought but the last. What follows the last thought is not random, so its count is
            0 or M.
        sampler: of the trajectories.
        policy: what goes on from a thought. "sampler": draws of the sampler; "noise-free": none, one roll-out says all,
            and M is 1; "outcome": nothing is rolled out, M is 1, and every thought has its trajectory's own outcome.
        seed: run seed, 64 bits.
        max_answer_tokens: longest answer.

    Raises:
        ValueError: naming the setting that is out of range.
    """

    trajectories: int
    rollouts: int
    sampler: Sampler
    policy: str = "sampler"
    seed: int = 0
    max_answer_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("trajectories", "rollouts", "max_answer_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value < 1 << 31:
                raise ValueError(f"{name}: got {value!r}; a whole number >= 1 is needed")
        if self.policy not in POLICIES:
            raise ValueError(f"policy: got {self.policy!r}; allowed are {', '.join(POLICIES)}")
        if self.policy != "sampler" and self.rollouts != 1:
            raise ValueError(f"rollouts: got {self.rollouts}; with policy {self.policy!r} 1 says all")
        if self.sampler.deterministic:
            raise ValueError("sampler: got 'none'; all trajectories of a question would be the same")

    @property
    def continuation(self) -> Sampler:
        """The sampler of what follows a thought."""
        return self.sampler if self.policy == "sampler" else Sampler(scope=self.sampler.scope)

    def to_dict(self) -> dict[str, Any]:
        """Everything that is recorded beside the labels."""
        return {
            "trajectories": self.trajectories,
            "rollouts": self.rollouts,
            "policy": self.policy,
            "seed": self.seed,
            "max_answer_tokens": self.max_answer_tokens,
            **self.sampler.to_dict(),
        }


class Labeller:
    """Samples and labels questions on the native engine.

    Args:
        model: a generator that the native engine can run.
        settings: see `LabelSettings`.
        weights: number format of the engine, "fp32", "bf16" or "int8".
    """

    def __init__(self, model: LatentModel, settings: LabelSettings, weights: str = "fp32") -> None:
        self.model, self.settings = model, settings
        self.engine = NativeEngine(model, settings.max_answer_tokens, weights)

    @torch.no_grad()
    def label(
        self, ids: Sequence[str], questions: Sequence[str], golds: Sequence[str]
    ) -> Iterator[LabelledQuestion]:
        """Labels in order; a question's labels depend on nothing that stands beside it.

        Raises:
            ValueError: for a question that cannot be encoded or a gold that is no number, naming it.
        """
        prompts, canonical = [], []
        for name, question, gold in zip(ids, questions, golds, strict=True):
            try:
                prompts.append(self.model.encode(question))
            except ValueError as error:
                raise ValueError(f"problem {name}: {error}") from None
            number = canonical_number(gold)
            if number is None:
                raise ValueError(f"problem {name}: got answer {gold!r}; a number is needed")
            canonical.append(number)
        # Questions that go through the engine together have as many answer tokens left.
        room = [min(self.settings.max_answer_tokens, self._room(prompt)) for prompt in prompts]
        together = max(1, _ROWS // (self.settings.trajectories * self.settings.rollouts))
        start = 0
        while start < len(prompts):
            stop = start + 1
            while stop < min(start + together, len(prompts)) and room[stop] == room[start]:
                stop += 1
            part = slice(start, stop)
            yield from self._label(ids[part], prompts[part], canonical[part], room[start])
            start = stop

    def _room(self, prompt: Tensor) -> int:
        return self.model.max_positions - len(prompt) - self.model.family.latent_length

    def _label(
        self, ids: Sequence[str], prompts: list[Tensor], golds: list[str], max_tokens: int
    ) -> Iterator[LabelledQuestion]:
        settings, engine = self.settings, self.engine
        count = settings.trajectories
        keys = trajectory_keys(
            torch.tensor([to_signed(question_key(prompt)) for prompt in prompts], dtype=torch.int64), count
        )
        noise_free = Sampler()
        request = LatentRequest(prompts, keys[:, :1].contiguous(), noise_free, settings.seed)
        single = engine.sample(request, engine.read_prompts(prompts, noise_free))
        reference, reference_answers, _ = self._answers(single, max_tokens)

        request = LatentRequest(prompts, keys, settings.sampler, settings.seed)
        run = engine.sample(request, engine.read_prompts(prompts, settings.sampler))
        _, answers, logprobs = self._answers(run, max_tokens)
        correct = torch.tensor([answer == golds[row // count] for row, answer in enumerate(answers)])
        counts = self._counts(run, golds, correct, max_tokens)
        finite = run.thoughts.isfinite().all(dim=2).all(dim=1)
        for b, name in enumerate(ids):
            rows = slice(b * count, (b + 1) * count)
            yield LabelledQuestion(
                id=name,
                gold=golds[b],
                prompt=prompts[b],
                reference=torch.tensor(reference[b], dtype=torch.int64),
                reference_answer=reference_answers[b],
                thoughts=run.thoughts[rows],
                counts=counts[rows],
                rollouts=settings.rollouts,
                correct=correct[rows] & finite[rows],
                answers=answers[rows],
                usable=finite[rows],
                logprobs=logprobs[rows],
            )

    def _counts(self, run: LatentRun, golds: list[str], correct: Tensor, max_tokens: int) -> Tensor:
        """int64 [rows, T]: right roll-outs from every thought; from the last all are like the trajectory itself."""
        settings, steps = self.settings, run.thoughts.shape[1]
        if settings.policy == "outcome" or steps == 1:
            return correct.unsqueeze(1).expand(-1, steps) * settings.rollouts
        count, keys = run.request.trajectories, run.request.keys.reshape(-1, 1)
        width = min(settings.rollouts, max(1, _ROWS // run.rows))
        room = Rollouts(self.engine, run, width)
        counts = torch.zeros(run.rows, steps, dtype=torch.int64)
        counts[:, -1] = correct * settings.rollouts
        for t in range(1, steps):
            for first in range(0, settings.rollouts, width):
                numbers = torch.arange(first, min(first + width, settings.rollouts))
                branched = room.continue_from(t, rollout_key(keys, t, numbers), settings.continuation)
                _, answers, _ = self._answers(branched, max_tokens)
                per_question = count * len(numbers)
                right = [answer == golds[row // per_question] for row, answer in enumerate(answers)]
                counts[:, t - 1] += torch.tensor(right).reshape(run.rows, -1).sum(dim=1)
        return counts

    def _answers(self, run: LatentRun, max_tokens: int) -> tuple[list[list[int]], list[str | None], Tensor]:
        """Tokens, canonical answers and log probabilities of all rows."""
        written_by_row = self.engine.answer(run, torch.arange(run.rows), max_tokens=max_tokens)
        tokens = written_by_row.tokens
        known: dict[tuple[int, ...], str | None] = {}
        for written in map(tuple, tokens):
            if written not in known:
                known[written] = self.model.family.answer(self.model.decode(list(written)))
        return tokens, [known[tuple(written)] for written in tokens], written_by_row.logprobs


def described(model: LatentModel, settings: LabelSettings, weights: str) -> dict[str, Any]:
    """The settings with the generator they are for: what a run, and a LatentRM trained on it, records."""
    return {
        "generator_hash": model.weights_hash,
        "latent_length": model.family.latent_length,
        "weights": weights,
        **settings.to_dict(),
    }
