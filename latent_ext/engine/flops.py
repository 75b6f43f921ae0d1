"""Floating point operations of a run, counted from the model's shapes and from what was executed.

Counted are matrix products, two operations per multiply and add, as ``torch.utils.flop_counter`` counts them: every
linear of the bodies, attention over the positions that a query sees (no masked pairs), thought heads, the LM head for
the tokens that are drawn and the LatentRM's scalar head. Left out are norms, activations, softmax, random numbers and
rotary tables: less than a hundredth of it from a width of a few hundred on.

The count is of the engines "native" and "modules": prompts are read once per question, or once per trajectory where
dropout acts on them; without randomness all trajectories of a question share their thoughts; answers are decoded for
the trajectories that have one. Engine "reference" repeats much of this on purpose, and so does a run that memory cuts
into parts; neither changes the count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn
from transformers.pytorch_utils import Conv1D

from latent_ext.engine.base import Beam
from latent_ext.engine.beam import beam_widths
from latent_ext.models.blocks import Blocks
from latent_ext.models.depth import DepthSteps
from latent_ext.models.family import HeadStage, ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler, Scope, as_sampler

# Of a run: reading prompts, passes over thoughts, the LatentRM, passes over answers, and the LM head.
PHASES = ("prompt", "latent", "reward", "answer", "lm_head")


@dataclass(frozen=True)
class Cost:
    """What a run took. Costs add up.

    Attributes:
        prompt_tokens: positions of prompts that the generator read.
        thoughts: thoughts formed; shared ones count once, pruned ones count.
        answer_tokens: tokens drawn, those that end an answer included.
        reward_positions: positions that the LatentRM read, prompts included.
        phases: floating point operations by phase, keys `PHASES`.
    """

    prompt_tokens: int = 0
    thoughts: int = 0
    answer_tokens: int = 0
    reward_positions: int = 0
    phases: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))

    @property
    def flops(self) -> int:
        """Floating point operations in all."""
        return sum(self.phases.values())

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.prompt_tokens + other.prompt_tokens,
            self.thoughts + other.thoughts,
            self.answer_tokens + other.answer_tokens,
            self.reward_positions + other.reward_positions,
            {name: self.phases[name] + other.phases[name] for name in PHASES},
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: the counts, "flops", and "phases"."""
        counts = ("prompt_tokens", "thoughts", "answer_tokens", "reward_positions", "flops")
        return {name: getattr(self, name) for name in counts} | {"phases": dict(self.phases)}


@dataclass(frozen=True)
class BodyShape:
    """What one position costs in a pre-norm body.

    Attributes:
        linear: operations of all linears, per position.
        pair: operations of attention in all layers, per query and position that it sees.
    """

    linear: int
    pair: int

    @classmethod
    def of(cls, body: nn.Module, blocks: Blocks) -> BodyShape:
        """The shape of a body, adapters inside it included."""
        linear = 0
        for module in body.modules():
            if isinstance(module, nn.Linear):
                linear += 2 * module.in_features * module.out_features
            elif isinstance(module, Conv1D):
                linear += 2 * module.weight.numel()
        return cls(linear, 4 * blocks.layers * blocks.heads * blocks.head_dim)

    def read(self, new: int, seen: int) -> int:
        """Operations for `new` positions behind `seen` ones, with causal attention."""
        return new * self.linear + self.pair * (new * seen + new * (new + 1) // 2)


class CountedTrajectory(Protocol):
    """Of a trajectory, what its cost follows from; see `latent_ext.search.result.Trajectory`."""

    steps: int | None
    tokens: list[int] | None
    finished: bool | None


class CountedResult(Protocol):
    """Of a result, what its cost follows from; see `latent_ext.search.result.Result`."""

    question: str
    settings: dict[str, Any]

    @property
    def trajectories(self) -> Sequence[CountedTrajectory]: ...


@dataclass(frozen=True)
class _Drawn:
    """One trajectory: its thoughts, and the tokens drawn for its answer (None: not decoded)."""

    steps: int
    tokens: int | None


def why_not_counted(model: LatentModel) -> str | None:
    """Why the operations of a model cannot be told from results, or None."""
    feedback = model.feedback
    if isinstance(feedback, DepthSteps):
        return "its thoughts are depth steps of one token"
    if not isinstance(feedback, ThoughtHead):
        return f"its thoughts are formed by a rule in Python ({type(feedback).__name__})"
    if model.semantics.stop != "fixed" and model.semantics.cap == "reenter":
        return "its rows may think again inside the answer, which results do not record"
    return None


def cost_of(
    model: LatentModel, reward: LatentRM | None, results: CountedResult | Iterable[CountedResult]
) -> Cost:
    """What results of `latent_ext.solve` took, from the thoughts and tokens that they hold.

    Args:
        model: the generator that made them.
        reward: the LatentRM that scored them; None where there was none. One with ``reference="answer"`` had the
            generator answer every question once without randomness. Results do not hold that answer: its length is
            taken to be the mean of the decoded ones, rounded.
        results: one or several.

    Raises:
        ValueError: for a model that `why_not_counted` names a reason for.

    Example:
        >>> import latent_ext
        >>> model, reward = latent_ext.load(), latent_ext.load_reward()
        >>> results = latent_ext.solve(model, "Mia has 19 ...", n=16, reward=reward)  # doctest: +SKIP
        >>> cost_of(model, reward, results).flops  # doctest: +SKIP
    """
    listed: list[Any] = [results] if hasattr(results, "trajectories") else list(results)
    return sum(costs_of(model, reward, listed), Cost())


def costs_of(model: LatentModel, reward: LatentRM | None, results: Iterable[CountedResult]) -> list[Cost]:
    """`cost_of` for each result by itself."""
    counter = _Counter(model, reward)
    costs = []
    for result in results:
        settings = result.settings
        drawn = [
            _Drawn(
                int(one.steps or 0),
                None if one.tokens is None else len(one.tokens) + int(bool(one.finished)),
            )
            for one in result.trajectories
        ]
        candidates = settings.get("candidates")
        beam = None
        if candidates is not None:
            beam = Beam(settings["n"], candidates, lookahead=settings.get("lookahead") or 0)
        costs.append(
            counter.question(
                len(model.encode(result.question)),
                drawn,
                Sampler.parse(settings["sampler"], scope=settings["scope"]),
                beam,
                settings["engine"],
                settings.get("reward_positions"),
            )
        )
    return costs


def expand(
    model: LatentModel,
    reward: LatentRM | None = None,
    *,
    prompt_tokens: int,
    answer_tokens: int,
    n: int = 64,
    sampler: str | Sampler = "dropout:0.2",
    scope: Scope | None = None,
    beam: Beam | None = None,
    decode: str = "all",
    engine: str = "native",
) -> Cost:
    """What one question will take, before it is run.

    Args:
        model, reward: as in `cost_of`.
        prompt_tokens: length of its prompt, at least 1.
        answer_tokens: tokens of an answer, the one that ends it included.
        n: trajectories; with a `beam`, those that form the first thought follow from it.
        sampler, scope: as in `latent_ext.solve`.
        beam: pruning between thoughts; None for none.
        decode: "all" answers, or "one": the chosen one's alone.
        engine: "native" or "modules", which scores shared thoughts once per trajectory.

    Rows that end their thoughts by themselves are taken to have as many as the family allows.

    Raises:
        ValueError: for a number below 1, another `decode`, or a model that `why_not_counted` names a reason for.
    """
    for name, value in (("prompt_tokens", prompt_tokens), ("answer_tokens", answer_tokens), ("n", n)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}; a whole number >= 1 is needed")
    if decode not in ("all", "one"):
        raise ValueError(f"decode: got {decode!r}; allowed are all, one")
    steps = model.family.latent_length
    width = n if beam is None else beam.keep
    decoded = width if decode == "all" else 1
    drawn = [_Drawn(steps, answer_tokens if place < decoded else None) for place in range(width)]
    positions = None if reward is None else reward.positions
    counter = _Counter(model, reward)
    return counter.question(prompt_tokens, drawn, as_sampler(sampler, scope), beam, engine, positions)


class _Counter:
    """Shapes of a generator and its LatentRM, read off once.

    Raises:
        ValueError: for a model that `why_not_counted` names a reason for.
    """

    def __init__(self, model: LatentModel, reward: LatentRM | None) -> None:
        reason = why_not_counted(model)
        if reason is not None:
            raise ValueError(f"model: the operations of {model.name} cannot be counted: {reason}")
        head = model.feedback
        assert isinstance(head, ThoughtHead)
        self.model, self.reward, self.head = model, reward, head
        self.body = BodyShape.of(model.body, model.blocks)
        self.lm_head = 2 * model.answer_head.numel()
        if reward is not None:
            self.reward_body = BodyShape.of(reward.module.body, reward.blocks)
            self.score = _stages(reward.stages) + 2 * reward.head_weight.numel()

    def question(
        self,
        length: int,
        drawn: Sequence[_Drawn],
        sampler: Sampler,
        beam: Beam | None,
        engine: str,
        positions: str | None,
    ) -> Cost:
        """One question's cost; see `cost_of`."""
        own_prompts = sampler.drops and sampler.scope == "prompt+latent"
        shared = sampler.deterministic and beam is None
        thinkers = list(drawn[:1] if shared else drawn)
        rows = self._rows_by_step(thinkers, beam)
        phases = dict.fromkeys(PHASES, 0)

        # What dropout acts on in the prompt is read by each trajectory: all of it, or its last token.
        again = length if own_prompts else int(sampler.drops)
        first_rows = rows[0] if rows else len(thinkers)
        read_once = length - again
        phases["prompt"] = self.body.read(read_once, 0) + first_rows * self.body.read(again, read_once)
        prompt_tokens = read_once + first_rows * again

        formed = sum(rows)
        fixed = self.model.semantics.stop == "fixed"
        head = _stages(self.head.stages)
        if sampler.draws_from_head and self.head.log_std is not None:
            head += _stages((self.head.log_std,))
        phases["latent"] = formed * head
        # Where the number of thoughts is fixed, the answer phase reads the last one.
        passes = rows[1:] if fixed else rows
        for t, width in enumerate(passes):
            phases["latent"] += width * self.body.read(1, length + t)
        ahead = _ahead(rows, beam)
        phases["latent"] += sum(ahead) * head
        for t, further in enumerate(ahead):
            phases["latent"] += rows[t] * self.body.read(further // rows[t], length + t)
        if not fixed:
            phases["lm_head"] += self.lm_head * sum(self._stop_draws(one.steps) for one in thinkers)

        answer_tokens = 0
        for one in drawn:
            if one.tokens is not None:
                answer_tokens += one.tokens
                phases["answer"] += self._answer(length, one.steps, one.tokens, fixed)
                phases["lm_head"] += one.tokens * self.lm_head
        reward_positions, extra = 0, Cost()
        if self.reward is not None:
            scored = len(drawn) if shared and engine != "native" else None
            seen = (length, drawn, rows, ahead, scored, positions)
            phases["reward"], reward_positions, extra = self._reward(*seen)
        return Cost(prompt_tokens, formed + sum(ahead), answer_tokens, reward_positions, phases) + extra

    def _rows_by_step(self, thinkers: Sequence[_Drawn], beam: Beam | None) -> list[int]:
        """How many trajectories form each thought."""
        most = max((one.steps for one in thinkers), default=0)
        if beam is None:
            return [sum(one.steps > t for one in thinkers) for t in range(most)]
        first = beam.keep * beam.candidates
        widths = beam_widths(beam, first, most)
        return [first, *(width for _, width in widths[:-1])] if most else []

    def _stop_draws(self, steps: int) -> int:
        """Tokens drawn to learn whether a row goes on thinking."""
        most, least = self.model.family.latent_length, self.model.semantics.least_thoughts
        return max(0, min(steps + 1, most) - least)

    def _answer(self, length: int, steps: int, tokens: int, fixed: bool) -> int:
        """The last thought where it is still to be read, the end token, and all drawn tokens but the last."""
        unread = int(fixed and steps > 0)
        return self.body.read(unread + tokens, length + steps - unread)

    def _reward(
        self,
        length: int,
        drawn: Sequence[_Drawn],
        rows: Sequence[int],
        ahead: Sequence[int],
        scored: int | None,
        positions: str | None,
    ) -> tuple[int, int, Cost]:
        """The LatentRM's operations and positions, and the cost of the noise-free answer where it reads one.

        Args:
            ahead: by step, as `_ahead` gives them.
            scored: rows that read every thought, where that is not the rows that formed it.
        """
        assert self.reward is not None
        shape, steps = self.reward_body, len(rows)
        if positions == "published":
            # Every trajectory is scored by itself, prompt and thoughts.
            read = sum(shape.read(length + one.steps, 0) + one.steps * self.score for one in drawn)
            return read, sum(length + one.steps for one in drawn), Cost()
        extra, before = Cost(), length
        if self.reward.reference == "answer":
            decoded = [one.tokens for one in drawn if one.tokens is not None]
            tokens = round(sum(decoded) / len(decoded)) if decoded else 0
            noise_free = _Drawn(self.model.family.latent_length, tokens)
            without = _Counter(self.model, None)
            extra = without.question(length, [noise_free], Sampler(), None, "native", None)
            room = max(0, self.reward.blocks.max_positions - length - steps)
            before += min(room, max(0, tokens - 1))
        if self.model.semantics.stop != "fixed":
            # Rows are scored to the end of the store, whatever their number of thoughts.
            steps, scored = self.model.family.latent_length, len(drawn)
        by_step = [scored] * steps if scored is not None else rows
        flops = shape.read(before, 0)
        for t, width in enumerate(by_step):
            flops += width * (shape.read(1, before + t) + self.score)
        for t, further in enumerate(ahead):
            flops += rows[t] * shape.read(further // rows[t], before + t + 1) + further * self.score
        return flops, before + sum(by_step) + sum(ahead), extra


def _ahead(rows: Sequence[int], beam: Beam | None) -> list[int]:
    """By step, thoughts that a lookahead forms for all rows together: each row the same number."""
    if beam is None or beam.lookahead == 0:
        return []
    return [width * min(beam.lookahead, len(rows) - 1 - t) for t, width in enumerate(rows)]


def _stages(stages: Sequence[HeadStage]) -> int:
    """Operations of a head's linears, per thought."""
    return sum(
        2 * stage.weight.numel() for stage in stages if stage.kind == "linear" and stage.weight is not None
    )
