"""`solve`: N trajectories per question, scored, decoded as far as the selection needs it, and one chosen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent_ext.engine import choose_engine
from latent_ext.engine.base import Engine, LatentRequest
from latent_ext.engine.plan import Chunk, plan
from latent_ext.engine.reward_prompts import reward_prompts
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.arguments import to_signed
from latent_ext.ops.keys import question_key, trajectory_keys
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import GaussianNoise, MCDropout, Sampler, Scope, as_sampler
from latent_ext.search.result import Result, Trajectory
from latent_ext.search.select import SELECTORS

Progress = Callable[[int, int], None]


def solve(
    model: LatentModel,
    questions: str | Sequence[str],
    *,
    n: int = 64,
    sampler: Sampler | MCDropout | GaussianNoise | str = "dropout:0.2",
    scope: Scope | None = None,
    reward: LatentRM | None = None,
    select: str | None = None,
    decode: str = "needed",
    temperature: float = 0.0,
    seed: int = 0,
    engine: str = "auto",
    weights: str | None = None,
    max_answer_tokens: int = 64,
    keys: Sequence[int] | None = None,
    return_thoughts: bool = False,
    memory_bytes: int = 2 << 30,
    max_rows: int | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Parallel test-time scaling of a latent reasoning model (LatentTTS, arXiv 2510.07745).

    Args:
        model: from `latent_ext.load`.
        questions: one question or several.
        n: trajectories per question. The first 16 of n=64 are the n=16 run.
        sampler: object or text form, for example "dropout:0.2", "noise:0.6", "noise:0.4:relative", "none".
        scope: overrides the sampler's scope: "latent" or "prompt+latent".
        reward: from `latent_ext.load_reward`; needed by "best_of_n" and "weighted_vote".
        select: "best_of_n", "majority" or "weighted_vote". Default: best_of_n with a reward, else majority.
        decode: "needed" decodes the winner alone where the selection allows it; "all" decodes every answer.
        temperature: of the answer tokens; 0 is argmax.
        seed: run seed, 64 bits.
        engine: "auto", "native", "modules" or "reference".
        weights: number format of the native engine: "fp32", "bf16" or "int8" (see `latent_ext.models.packed.pack`).
            Default: that of the model. The other engines compute in the model's own.
        max_answer_tokens: longest answer; less where the model's positions end sooner.
        keys: 64-bit question keys; default: from the prompt ids.
        return_thoughts: keep each trajectory's thoughts, [T, hidden] on the CPU.
        memory_bytes: budget for caches; what does not fit is cut into chunks, with the same results.
        max_rows: further bound on the trajectories that are in memory at a time.
        progress: called with (trajectories done, trajectories in all).

    Returns:
        One `Result` per question, in order. A trajectory with a thought or score that is not finite is
        reported by a warning and in `Trajectory.error`, and never selected.

    Raises:
        ValueError: naming the argument, what was given and what is allowed, before anything is computed.

    Example:
        >>> import latent_ext
        >>> model, reward = latent_ext.load(), latent_ext.load_reward()
        >>> result = latent_ext.solve(model, "Mia has 19 ...", n=16, reward=reward)[0]  # doctest: +SKIP
        >>> result.answer, result.best.score  # doctest: +SKIP
    """
    texts = [questions] if isinstance(questions, str) else list(questions)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n: got {n!r}; a whole number of trajectories >= 1 is needed")
    select = select or ("best_of_n" if reward is not None else "majority")
    if select not in SELECTORS:
        raise ValueError(f"select: got {select!r}; allowed are {', '.join(SELECTORS)}")
    if select != "majority" and reward is None:
        raise ValueError(f"select: {select!r} needs a reward; give reward=, or select='majority'")
    if decode not in ("needed", "all"):
        raise ValueError(f"decode: got {decode!r}; allowed are needed, all")
    if not 0.0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature!r}; a finite number >= 0 is needed")
    if not isinstance(max_answer_tokens, int) or max_answer_tokens < 1:
        raise ValueError(f"max_answer_tokens: got {max_answer_tokens!r}; a whole number >= 1 is needed")
    if not _is_64_bits(seed):
        raise ValueError(f"seed: got {seed!r}; a whole number of 64 bits is needed")
    if keys is not None and len(keys) != len(texts):
        raise ValueError(f"keys: got {len(keys)} for {len(texts)} questions; one each is needed")
    for b, key in enumerate(() if keys is None else keys):
        if not _is_64_bits(key):
            raise ValueError(f"keys[{b}]: got {key!r}; a whole number of 64 bits is needed")
    chosen_sampler = as_sampler(sampler, scope)
    if reward is not None:
        _check_reward(model, reward)
        differing = reward.unlike_training(chosen_sampler.to_dict(), model.weights_hash)
        if differing:
            message = f"reward: {reward.name} was trained on trajectories of {'; '.join(differing)}"
            warnings.warn(f"{message}; its scores may mislead", UserWarning, stacklevel=2)

    prompts = [_encode(model, text, b) for b, text in enumerate(texts)]
    runner, choice = choose_engine(
        model, engine, max_answer_tokens=max_answer_tokens, weights=weights, reward=reward
    )
    question_keys = [question_key(prompt) for prompt in prompts] if keys is None else list(keys)
    settings: dict[str, Any] = {
        "model": model.name,
        "weights_hash": model.weights_hash,
        "reward": None if reward is None else reward.name,
        "engine": choice.name,
        "weights": runner.weights,
        "n": n,
        "seed": seed,
        "temperature": temperature,
        "latent_length": model.family.latent_length,
        **chosen_sampler.to_dict(),
    }
    decode_all = decode == "all" or select != "best_of_n"
    run = _Run(model, runner, chosen_sampler, reward, n, seed, temperature, decode_all, return_thoughts)
    trajectories: list[list[Trajectory]] = [[] for _ in texts]
    done, total = 0, n * len(texts)
    lengths = [len(prompt) for prompt in prompts]
    limits = [
        min(max_answer_tokens, model.max_positions - len(p) - model.family.latent_length) for p in prompts
    ]
    chunks = plan(
        lengths,
        limits,
        n,
        lambda length: runner.bytes_per_row(model, chosen_sampler, length, max_answer_tokens),
        memory_bytes=memory_bytes,
        max_rows=max_rows,
    )
    for chunk in chunks:
        for b, part in run.chunk(chunk, prompts, question_keys):
            trajectories[b].extend(part)
            done += len(part)
            if progress is not None:
                progress(done, total)
    return [_result(text, part, select, settings) for text, part in zip(texts, trajectories, strict=True)]


@dataclass(frozen=True)
class _Run:
    """The settings of one `solve`, and how a chunk of it is computed."""

    model: LatentModel
    engine: Engine
    sampler: Sampler
    reward: LatentRM | None
    n: int
    seed: int
    temperature: float
    decode_all: bool
    return_thoughts: bool

    def chunk(
        self, chunk: Chunk, prompts: Sequence[Tensor], question_keys: Sequence[int]
    ) -> list[tuple[int, list[Trajectory]]]:
        """All trajectories of the chunk's questions, in order of n for each question."""
        own = [prompts[b] for b in chunk.questions]
        cache = self.engine.read_prompts(own, self.sampler)
        reward_cache = None
        if self.reward is not None:
            steps, limit = self.model.family.latent_length, chunk.answer_limit
            read = reward_prompts(self.engine, self.reward, own, steps=steps, max_tokens=limit)
            reward_cache = self.engine.read_reward_prompts(self.reward, read)
        of_questions = torch.tensor([to_signed(question_keys[b]) for b in chunk.questions], dtype=torch.int64)
        all_keys = trajectory_keys(of_questions, self.n)
        finished = []
        winners: list[Trajectory | None] = [None] * len(own)
        for first, last in chunk.parts:
            request = LatentRequest(own, all_keys[:, first:last].contiguous(), self.sampler, self.seed)
            run = self.engine.sample(request, cache, self.reward, reward_cache)
            part = self._describe(run.thoughts, run.scores, request.keys, first)
            rows = self._rows_to_decode(part, winners)
            answers = self.engine.answer(
                run, rows.to(run.thoughts.device), max_tokens=chunk.answer_limit, temperature=self.temperature
            )
            width = last - first
            logprobs, ended = answers.logprobs.tolist(), answers.finished.tolist()
            for place, row in enumerate(rows.tolist()):
                trajectory = part[row // width][row % width]
                trajectory.tokens = answers.tokens[place]
                trajectory.text = self.model.decode(trajectory.tokens)
                trajectory.answer = self.model.family.answer(trajectory.text)
                trajectory.logprob, trajectory.finished = logprobs[place], ended[place]
            for b, listed in zip(chunk.questions, part, strict=True):
                self._report(b, listed)
                finished.append((b, listed))
        return finished

    def _describe(
        self, thoughts: Tensor, scores: Tensor | None, keys: Tensor, first: int
    ) -> list[list[Trajectory]]:
        questions, width = keys.shape
        finite = thoughts.isfinite().all(dim=2).reshape(questions, width, -1).tolist()
        by_step = None if scores is None else scores.reshape(questions, width, -1).tolist()
        kept = thoughts.cpu().reshape(questions, width, *thoughts.shape[1:]) if self.return_thoughts else None
        described = []
        for b in range(questions):
            listed = []
            for n in range(width):
                trajectory = Trajectory(index=first + n, key=int(keys[b, n]))
                if by_step is not None:
                    trajectory.step_scores = by_step[b][n]
                    trajectory.score = sum(by_step[b][n])
                    if not torch.isfinite(torch.tensor(trajectory.score)):
                        trajectory.error, trajectory.score = "the score is not finite", None
                if not all(finite[b][n]):
                    trajectory.error = f"thought {finite[b][n].index(False) + 1} is not finite"
                    trajectory.score = None
                if kept is not None:
                    trajectory.thoughts = kept[b, n].clone()
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
                warnings.warn(message, RuntimeWarning, stacklevel=4)


def _best_scored(trajectories: Sequence[Trajectory]) -> Trajectory | None:
    return max(trajectories, key=lambda trajectory: trajectory.score or 0.0, default=None)


def _is_64_bits(value: object) -> bool:
    return isinstance(value, int) and -(1 << 63) <= value < 1 << 64


def _encode(model: LatentModel, text: str, index: int) -> Tensor:
    try:
        return model.encode(text)
    except ValueError as error:
        raise ValueError(f"questions[{index}]: {error}") from None


def _check_reward(model: LatentModel, reward: LatentRM) -> None:
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


def _result(text: str, trajectories: list[Trajectory], select: str, settings: dict[str, Any]) -> Result:
    answers = [trajectory.answer for trajectory in trajectories]
    scores = [trajectory.score for trajectory in trajectories]
    selection = SELECTORS[select](answers, scores)
    return Result(text, trajectories, select, selection.chosen, selection.votes, settings)
