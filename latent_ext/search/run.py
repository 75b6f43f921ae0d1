"""N trajectories per prompt: sampled, scored, and decoded as far as the selection needs it. No text here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from latent_ext.engine.base import Beam, Engine, LatentRun, SearchStep
from latent_ext.engine.beam import check_beam
from latent_ext.engine.continuation import check_continuable
from latent_ext.engine.draws import check_sampler
from latent_ext.engine.plan import Chunk, plan
from latent_ext.engine.replay import RereadingEngine
from latent_ext.engine.reward_prompts import reward_prompts
from latent_ext.mixture import Mixture, members
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler
from latent_ext.search.adaptive import Adaptive, rounds
from latent_ext.search.drawing import Drawing, Drawn
from latent_ext.search.extend import CONTINUATIONS, Branch
from latent_ext.search.result import Trajectory

Progress = Callable[[int, int], None]


class _Part(NamedTuple):
    """Trajectory numbers [first, last) that are drawn at a time, and whether a round begins or ends with them."""

    first: int
    last: int
    starts_round: bool
    ends_round: bool


@dataclass(frozen=True)
class Run:
    """The settings of one run over prompts, and how a chunk of it is computed.

    Attributes:
        n: trajectories per question that form the first thought.
        decode_all: decode every answer, not only that of each question's best-scored trajectory.
        beam: prunes and branches between thoughts by the scores of `reward`.
        temperature, top_p: of the answer tokens; temperature 0 is argmax.
        replay: thoughts drawn under dropout or noise on W_V are read again without it before their answers are decoded; the
            model passed `check_replay`.
        adaptive: ends a question before n trajectories; needs `decode_all`.
        searches: with `beam`, filled with what the search of each question (its number) looked at; None not to keep it.
    """

    model: LatentModel
    engine: Engine
    sampler: Sampler | Mixture
    reward: LatentRM | None
    n: int
    seed: int
    temperature: float
    decode_all: bool
    return_thoughts: bool
    beam: Beam | None = None
    top_p: float = 1.0
    replay: bool = False
    adaptive: Adaptive | None = None
    searches: dict[int, list[SearchStep]] | None = None

    def over(
        self,
        prompts: Sequence[Tensor],
        question_keys: Sequence[int],
        *,
        max_answer_tokens: int,
        memory_bytes: int,
        max_rows: int | None = None,
        progress: Progress | None = None,
    ) -> list[list[Trajectory]]:
        """Trajectories of each prompt, in order; answers are token ids, not yet text.

        Args:
            prompts: int64 [length] ids each.
            question_keys: 64 bits each.
            max_answer_tokens: longest answer; less where the model's positions end sooner.
            memory_bytes, max_rows: see `latent_ext.engine.plan.plan`.
            progress: called with (trajectories done, trajectories in all).

        Raises:
            ValueError: for a sampler with a part that does not act in this family; for a beam, or continuations, over
                rows that do not all think the same number of thoughts, or over a mixture of samplers.
        """
        samplers = members(self.sampler)
        for sampler in samplers:
            check_sampler(self.model, sampler)
        if self.beam is not None and len(samplers) > 1:
            raise ValueError(f"sampler: got {str(self.sampler)!r}; a beam is of one sampler")
        if self.beam is not None:
            check_beam(self.model)
        if self.extends and len(samplers) > 1:
            raise ValueError(
                f"extend: got sampler {str(self.sampler)!r}; trajectories of one sampler are continued"
            )
        if self.extends:
            check_continuable(self.model)
        trajectories: list[list[Trajectory]] = [[] for _ in prompts]
        done, total = 0, self.n * len(prompts)
        room = self.model.max_positions - self.model.thought_positions
        chunks = plan(
            [len(prompt) for prompt in prompts],
            [min(max_answer_tokens, room - len(prompt)) for prompt in prompts],
            self.n,
            lambda length: max(
                self.engine.bytes_per_row(self.model, sampler, length, max_answer_tokens)
                for sampler in samplers
            ),
            memory_bytes=memory_bytes,
            max_rows=max_rows,
            # What a rival has read must still be there in the round that continues it.
            whole=self.beam is not None or self.extends,
        )

        def report(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None:
                progress(done, total)

        for chunk in chunks:
            for b, listed in self.chunk(chunk, prompts, question_keys, report):
                trajectories[b] = listed
        return trajectories

    def chunk(
        self,
        chunk: Chunk,
        prompts: Sequence[Tensor],
        question_keys: Sequence[int],
        report: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[int, list[Trajectory]]]:
        """All trajectories of the chunk's questions, in order of n for each question.

        `report` is called with the number of trajectories that were done or need no more be done.
        """
        own = [prompts[b] for b in chunk.questions]
        reward_cache = None
        if self.reward is not None:
            steps, limit = self.model.family.latent_length, chunk.answer_limit
            read = reward_prompts(self.engine, self.reward, own, steps=steps, max_tokens=limit)
            reward_cache = self.engine.read_reward_prompts(self.reward, read)
        of_questions = torch.tensor([to_signed(question_keys[b]) for b in chunk.questions], dtype=torch.int64)
        drawing = Drawing(
            self.engine,
            self.sampler,
            self.seed,
            own,
            of_questions,
            self.n,
            self.reward,
            reward_cache,
            beam=self.beam,
            trace=self.searches is not None,
            continues=self.extends,
        )
        found: list[list[Trajectory]] = [[] for _ in own]
        # Where not all is decoded, no question ends early.
        winners: list[Trajectory | None] = [None] * len(own)
        going = list(range(len(own)))
        for part in self._parts(chunk):
            branches = self._branches(chunk, found, going) if part.starts_round else {}
            fresh = [b for b in going if b not in branches]
            for drawn in chain(
                drawing.fresh(fresh, part.first, part.last),
                drawing.continued(branches, found, part.first, part.last),
            ):
                run = drawn.run
                described = self._describe(run, drawn)
                if self.searches is not None and run.search is not None:
                    for place, b in enumerate(drawn.places):
                        self.searches[chunk.questions[b]] = [step.of_question(place) for step in run.search]
                self._decode(run, described, winners, chunk.answer_limit)
                for place, listed in zip(drawn.places, described, strict=True):
                    self._report(chunk.questions[place], listed)
                    found[place].extend(listed)
                    found[place].sort(key=lambda trajectory: trajectory.index)
            report(len(going) * (part.last - part.first))
            if self.adaptive is not None and part.ends_round:
                settled = [b for b in going if self.adaptive.settled(chunk.questions[b], found[b])]
                going = [b for b in going if b not in settled]
                drawing.forget(settled)
                report(len(settled) * (self.n - part.last))
                if not going:
                    break
        return list(zip(chunk.questions, found, strict=True))

    @property
    def extends(self) -> bool:
        """Whether trajectories are continued."""
        return self.adaptive is not None and self.adaptive.extend is not None

    def _parts(self, chunk: Chunk) -> Iterator[_Part]:
        """Trajectories to draw at a time."""
        width = chunk.parts[0][1] - chunk.parts[0][0]
        for first, last in rounds(self.n) if self.adaptive is not None else [(0, self.n)]:
            cuts = {*range(first, last, width), last}
            if self.extends:
                # Continuations stand at the beginning of a round.
                cuts.add(min(first + CONTINUATIONS, last))
            for start, end in pairwise(sorted(cuts)):
                yield _Part(start, end, start == first, end == last)

    def _branches(
        self, chunk: Chunk, found: Sequence[Sequence[Trajectory]], going: Sequence[int]
    ) -> dict[int, Branch]:
        """Of the questions that are continued in the round that begins, by place, where."""
        if self.adaptive is None:
            return {}
        wanted = ((b, self.adaptive.branch(chunk.questions[b], found[b])) for b in going)
        return {b: branch for b, branch in wanted if branch is not None}

    def _decode(
        self, run: LatentRun, part: list[list[Trajectory]], winners: list[Trajectory | None], limit: int
    ) -> None:
        """Writes answers into the trajectories of a part, as far as they are needed."""
        rows = self._rows_to_decode(part, winners)
        places = rows.to(run.thoughts.device)
        if self.replay and run.request.sampler.acts_in_body and len(rows):
            assert isinstance(self.engine, RereadingEngine)
            run = self.engine.reread(run, places)
        answers = self.engine.answer(
            run,
            places,
            max_tokens=limit,
            temperature=self.temperature,
            top_p=self.top_p,
        )
        width = run.trajectories
        logprobs, ended = answers.logprobs.tolist(), answers.finished.tolist()
        for place, row in enumerate(rows.tolist()):
            trajectory = part[row // width][row % width]
            trajectory.tokens = answers.tokens[place]
            trajectory.logprob, trajectory.finished = logprobs[place], ended[place]
            if self.adaptive is not None:
                self.adaptive.read(trajectory)

    def _describe(self, run: LatentRun, drawn: Drawn) -> list[list[Trajectory]]:
        thoughts, scores, keys = run.thoughts, run.scores, run.keys
        questions, width = keys.shape
        steps = torch.full((run.rows,), thoughts.shape[1]) if run.counts is None else run.counts
        # A beam's trajectories are not those that formed the first thought.
        index_of = drawn.numbers if self.beam is None else range(width)
        counts, key_of = steps.reshape(questions, width).tolist(), keys.tolist()
        finite = thoughts.isfinite().all(dim=2).reshape(questions, width, thoughts.shape[1]).tolist()
        by_step = None if scores is None else scores.reshape(questions, width, -1).tolist()
        kept = thoughts.cpu().reshape(questions, width, *thoughts.shape[1:]) if self.return_thoughts else None
        described = []
        for b in range(questions):
            listed, branch = [], drawn.branches.get(drawn.places[b])
            for n in range(width):
                count = counts[b][n]
                trajectory = Trajectory(index=index_of[n], key=key_of[b][n], steps=count)
                if branch is not None:
                    trajectory.parent, trajectory.inherited = branch.parent, branch.kept
                if by_step is not None:
                    trajectory.set_scores(by_step[b][n][:count])
                if not all(finite[b][n]):
                    trajectory.error = f"thought {finite[b][n].index(False) + 1} is not finite"
                    trajectory.score = None
                if kept is not None:
                    trajectory.thoughts = kept[b, n, :count].clone()
                listed.append(trajectory)
            described.append(listed)
        return described

    def _rows_to_decode(self, part: list[list[Trajectory]], winners: list[Trajectory | None]) -> Tensor:
        """Rows with usable thoughts; of each question the best-scored one alone where that is enough.

        `winners` holds each question's best of the earlier parts. It is updated, and a beaten one gives up its
        answer, so that a result does not tell how the run was cut.
        """
        rows = []
        for b, listed in enumerate(part):
            usable = [n for n, trajectory in enumerate(listed) if trajectory.error is None]
            if not self.decode_all:
                earlier = winners[b]
                best = _best_scored(([] if earlier is None else [earlier]) + [listed[n] for n in usable])
                if earlier is not None and best is not earlier:
                    earlier.forget_answer()
                usable = [n for n in usable if listed[n] is best]
                winners[b] = best
            rows += [b * len(listed) + n for n in sorted(usable)]
        return torch.tensor(rows, dtype=torch.int64)

    def _report(self, question: int, listed: list[Trajectory]) -> None:
        for trajectory in listed:
            if trajectory.error is not None:
                place = f"question {question}, trajectory {trajectory.index}"
                message = f"{place}: {trajectory.error}; it is not selected"
                warnings.warn(message, RuntimeWarning, stacklevel=5)


def _best_scored(trajectories: Sequence[Trajectory]) -> Trajectory | None:
    """The best score, of equal ones the smallest number, whichever sampler or part came first."""
    return max(
        trajectories, key=lambda trajectory: (trajectory.score or 0.0, -trajectory.index), default=None
    )
