"""Floating point operations of a run, from the shapes of the model and from what was really executed.

Counted are the multiplications and additions of linear layers, of attention (scores and weighted sum over the positions
that are seen) and of heads, for every position that was read: prompts once per question, or by each trajectory where the
sampler acts on them; thoughts of all trajectories, pruned ones included; the LM head only where a token is drawn;
answers as far as they were decoded. Not counted are norms, activations, softmax, random numbers, padding and what a
causal mask hides. What a chunked best-of-N decodes and then discards for a better trajectory of a later chunk is not
recorded in results, and so not counted either. Noise on W_V is counted as the native engine computes it: two products
per layer for singular values. Of dense noise the products of its matrices are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from latent_ext.engine.base import Beam
from latent_ext.engine.beam import beam_widths
from latent_ext.engine.operations import Operations, why_uncounted
from latent_ext.mixture import Mixture, as_sampler_or_mixture, members
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.reward import Reward
from latent_ext.samplers import GaussianNoise, HeadNoise, MCDropout, Sampler, Scope

PHASES = ("read_prompts", "sample", "read_reward_prompts", "score", "answer")


@dataclass(frozen=True)
class Cost:
    """What a run took, summed over its questions.

    Attributes:
        prompt_tokens: positions of prompts read by the generator: once per question, or once per trajectory.
        thoughts: thoughts formed, those of pruned trajectories included.
        answer_tokens: tokens drawn, the end of sequence included.
        reward_positions: positions read by the LatentRM, prompts included.
        flops: floating point operations; None where `uncounted` says why.
        phases: the operations by phase, under the names in `PHASES`; empty where `flops` is None.
        uncounted: why there is no count of operations; None where there is one.
    """

    prompt_tokens: int = 0
    thoughts: int = 0
    answer_tokens: int = 0
    reward_positions: int = 0
    flops: int | None = 0
    phases: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    uncounted: str | None = None

    def __add__(self, other: Cost) -> Cost:
        why = self.uncounted or other.uncounted
        known = self.flops is not None and other.flops is not None
        return Cost(
            self.prompt_tokens + other.prompt_tokens,
            self.thoughts + other.thoughts,
            self.answer_tokens + other.answer_tokens,
            self.reward_positions + other.reward_positions,
            (self.flops or 0) + (other.flops or 0) if known else None,
            {name: self.phases[name] + other.phases[name] for name in PHASES} if known else {},
            why,
        )

    def to_dict(self) -> dict[str, Any]:
        """What ledgers and results record: prompt_tokens, thoughts, answer_tokens, reward_positions, flops."""
        names = ("prompt_tokens", "thoughts", "answer_tokens", "reward_positions", "flops")
        return {name: getattr(self, name) for name in names}


class Solved(Protocol):
    """What `latent_ext.solve` gives for a question, as far as it is counted; see `latent_ext.search.Result`."""

    question: str
    trajectories: list[Any]
    settings: dict[str, Any]


def cost_of(model: LatentModel, reward: Reward | None, results: Solved | Sequence[Solved]) -> Cost:
    """What the runs behind `results` took: the sum of `costs_of` over them.

    Args:
        model, reward: that they were run with; None for a run without a reward.
        results: one result of `latent_ext.solve`, or several.
    """
    listed = results if isinstance(results, Sequence) else [results]
    return sum(costs_of(model, reward, listed), Cost())


def costs_of(model: LatentModel, reward: Reward | None, results: Sequence[Solved]) -> list[Cost]:
    """What each result of `latent_ext.solve` took.

    ``flops`` is None where operations do not follow from shapes: thoughts formed by a rule in Python or by depth
    recurrence, rows that stop by themselves, pads that are visible, a LatentRM that reads answers, of which
    results do not tell the length, and rewards that compute anything beside what answers hold. Under an adaptive budget
    with clean replay what is read of a prompt again is counted once, though every round reads it.
    """
    counter = _Counter(model, reward)
    return [counter.cost(_runs(model, result)) for result in results]


def _runs(model: LatentModel, result: Solved) -> list[_Question]:
    """A result's trajectories by the sampler that drew them: one entry, or one for each sampler of a mixture."""
    settings = result.settings
    candidates, length = settings.get("candidates"), len(model.encode(result.question))
    beam = None
    if candidates is not None:
        beam = Beam(settings["n"], candidates, settings.get("subtrees") or 1, settings.get("lookahead") or 0)
    drawn_by = as_sampler_or_mixture(settings["sampler"], settings["scope"])
    runs: list[_Question] = []
    for sampler in members(drawn_by):
        own = [
            one
            for one in result.trajectories
            if isinstance(drawn_by, Sampler) or drawn_by.of_trajectory(one.index) == sampler
        ]
        # Continuations by the number of thoughts that they did not draw; all others have drawn all of theirs.
        by_kept: dict[int, list[Any]] = {0: []}
        for one in own:
            by_kept.setdefault(one.inherited or 0, []).append(one)
        for kept, alike in by_kept.items():
            drawn = [len(one.tokens) + bool(one.finished) for one in alike if one.tokens is not None]
            thoughts = sum((one.steps or 0) - kept for one in alike)
            rows = len(alike) if beam is None else beam.keep * beam.candidates
            if rows:
                first, rereads = not runs, settings.get("replay") == "clean" and sampler.acts_in_body
                engine = settings["engine"]
                runs.append(
                    _Question(length, rows, sampler, beam, drawn, thoughts, engine, first, rereads, kept)
                )
    return runs


def expand(
    model: LatentModel,
    reward: Reward | None = None,
    *,
    prompt_tokens: int | Sequence[int],
    answer_tokens: int,
    n: int = 64,
    sampler: Sampler | Mixture | MCDropout | GaussianNoise | HeadNoise | str = "dropout:0.2",
    scope: Scope | None = None,
    beam: Beam | None = None,
    decoded: int | None = None,
    engine: str = "native",
    replay: bool = False,
) -> Cost:
    """What a run would take, before it is run.

    Args:
        model, reward: as for `latent_ext.solve`.
        prompt_tokens: length of one question's prompt, or of each of several.
        answer_tokens: tokens that an answer is expected to take, the end of sequence included.
        n: trajectories per question; with a `beam` those that form the first thought follow from it.
        sampler, scope: as for `latent_ext.solve`.
        beam: of a beam search; None for none.
        decoded: answers decoded per question: 1 for best-of-N; default: those of all trajectories.
        engine: "native", "modules" or "reference".
        replay: thoughts are read again before answers are decoded, ``replay="clean"``.

    Raises:
        ValueError: naming the argument that is not a whole number >= 1.
    """
    lengths = [prompt_tokens] if isinstance(prompt_tokens, int) else list(prompt_tokens)
    numbers = {"n": n, "decoded": decoded, "answer_tokens": answer_tokens}
    for name, value in {**numbers, "prompt_tokens": min(lengths, default=1)}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}; a whole number >= 1 is needed")
    rows = n if beam is None else beam.keep * beam.candidates
    left = n if beam is None else beam.keep
    drawn_by = as_sampler_or_mixture(sampler, scope)
    runs: list[_Question] = []
    for length in lengths:
        waiting, first = min(decoded or left, left), True
        for one in members(drawn_by):
            own = rows
            if not isinstance(drawn_by, Sampler):
                own = sum(drawn_by.of_trajectory(k) == one for k in range(rows))
            if own == 0:
                continue
            kept = own if beam is None else left
            answers = min(waiting, kept)
            waiting -= answers
            thoughts = kept * model.family.latent_length
            rereads = replay and one.acts_in_body
            drawn = [answer_tokens] * answers
            runs.append(_Question(length, own, one, beam, drawn, thoughts, engine, first, rereads))
            first = False
    return _Counter(model, reward).cost(runs)


@dataclass(frozen=True)
class _Question:
    """One question's run.

    Attributes:
        length: tokens of its prompt.
        rows: trajectories that form the first thought.
        drawn: tokens drawn for each decoded answer.
        thoughts: of the trajectories that are left.
        engine: "native", "modules" or "reference"; each leaves out what it can.
        reads_reward_prompt: whether the LatentRM's reading of the prompt counts here; of a mixture, once.
        rereads: of trajectories that are decoded all thoughts but the last, and of the prompt what was not read clean, are
            read again before.
        kept: thoughts, the first ones, that the rows have from trajectories that they continue. The generator does not read
            the prompt for them, nor those of the kept thoughts that it had read; the LatentRM reads all thoughts.
    """

    length: int
    rows: int
    sampler: Sampler
    beam: Beam | None
    drawn: Sequence[int]
    thoughts: int
    engine: str
    reads_reward_prompt: bool
    rereads: bool = False
    kept: int = 0

    @property
    def shared(self) -> int:
        """Prompt tokens that are read once for all trajectories."""
        by_each = self.sampler.acts_in_body or self.engine == "reference"
        if by_each and self.sampler.scope == "prompt+latent":
            return 0
        return self.length - 1 if by_each else self.length

    @property
    def prompt_again(self) -> int:
        """Prompt tokens that are read again, once for all trajectories; the reference engine keeps nothing."""
        if not self.rereads or not self.drawn:
            return 0
        return self.length if self.engine == "reference" else self.length - self.shared

    @property
    def one_for_all(self) -> bool:
        """Whether trajectories without randomness are computed once."""
        return self.sampler.deterministic and self.beam is None and self.engine != "reference"


class _Counter:
    """Operations of a generator and its LatentRM, read off once."""

    def __init__(self, model: LatentModel, reward: Reward | None) -> None:
        self.model = model
        self.reward = reward if isinstance(reward, LatentRM) else None
        self.why = why_uncounted(model, reward)
        self.operations = None if self.why is not None else Operations(model, self.reward)

    def cost(self, runs: Sequence[_Question]) -> Cost:
        """The sum over runs."""
        total = Cost() if self.why is None else Cost(flops=None, phases={}, uncounted=self.why)
        for run in runs:
            total = total + self._count(run)
        return total

    def _count(self, run: _Question) -> Cost:
        rows = 1 if run.one_for_all else run.rows
        steps, length, shared = self.model.family.latent_length, run.length, run.shared
        starting = 0 if run.kept else rows
        prompt_tokens = bool(starting) * shared + starting * (length - shared) + run.prompt_again
        operations = self.operations
        if operations is None:
            return Cost(prompt_tokens, run.thoughts, sum(run.drawn), 0, None, {}, self.why)
        widths = beam_widths(run.beam, run.rows, steps)
        # Rows that form thought t, and that read it, of all thoughts but the last, which the answer reads.
        forming = [0] * run.kept + [rows] * (steps - run.kept)
        if widths:
            forming = [rows, *(width for _, width in widths[:-1])]
        reading = forming[1:]
        # Thoughts looked ahead to from thought t, by each of the rows that formed it.
        further = [min(run.beam.lookahead, steps - 1 - t) if run.beam else 0 for t in range(steps)]
        ahead = sum(count * more for count, more in zip(forming, further, strict=True))
        body = operations.generator
        phases = dict.fromkeys(PHASES, 0)
        phases["read_prompts"] = bool(starting) * body.read(0, shared)
        phases["sample"] = starting * body.read(shared, length)
        for t, count in enumerate(reading):
            phases["sample"] += count * body.read(length + t, length + t + 1)
        for t, count in enumerate(forming):
            phases["sample"] += count * body.read(length + t, length + t + further[t])
        form = operations.thought + (operations.deviation if run.sampler.draws_from_head else 0)
        phases["sample"] += sum(forming) * form + ahead * operations.thought
        if run.sampler.svp > 0.0:
            phases["sample"] += (starting * (length - shared) + sum(reading)) * operations.spectrum
        first = length + max(steps - 1, 0)
        for tokens in run.drawn:
            phases["answer"] += body.read(first, length + steps + tokens) + tokens * operations.token
        if run.rereads:
            again = len(run.drawn)
            phases["sample"] += body.read(length - run.prompt_again, length)
            phases["sample"] += again * body.read(length, first)
            if run.engine == "native":
                # Its op forms a thought from every position that it is given, and here discards it.
                start = bool(again) and run.sampler.scope == "latent"
                phases["sample"] += (start + again * max(steps - 1, 0)) * operations.thought
        positions = self._count_scores(run, operations, forming, further, phases) if self.reward else 0
        thoughts = sum(forming) + ahead
        return Cost(prompt_tokens, thoughts, sum(run.drawn), positions, sum(phases.values()), phases)

    def _count_scores(
        self,
        run: _Question,
        operations: Operations,
        forming: Sequence[int],
        further: Sequence[int],
        phases: dict[str, int],
    ) -> int:
        """Adds the LatentRM's operations to `phases`; returns the positions that it read."""
        body, length, steps = operations.reward, run.length, len(forming)
        assert body is not None
        assert self.reward is not None
        # Only the native engine scores the trajectories of a deterministic run once.
        once = not run.one_for_all or run.engine == "native"
        counts = list(forming) if once and not run.kept else [run.rows] * steps
        if self.reward.positions == "published" or run.engine == "reference":
            # Every sequence from its beginning; in a beam search the reference reads each prefix anew, and the end again.
            whole = []
            if run.beam is not None:
                whole = [(count, t + 1 + further[t]) for t, count in enumerate(counts)]
            whole.append((run.rows if run.beam is None else run.beam.keep, steps))
            for count, thoughts in whole:
                phases["score"] += count * (body.read(0, length + thoughts) + thoughts * operations.score)
            return sum(count * (length + thoughts) for count, thoughts in whole)
        if run.reads_reward_prompt:
            phases["read_reward_prompts"] += body.read(0, length)
        for t, count in enumerate(counts):
            last = length + t + 1 + further[t]
            phases["score"] += count * (body.read(length + t, last) + (1 + further[t]) * operations.score)
        scored = sum(count * (1 + more) for count, more in zip(counts, further, strict=True))
        return length * run.reads_reward_prompt + scored
