"""One generation in Hugging Face's terms: prompts in, trajectories and their sequences out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from latent_ext.engine import choose_engine
from latent_ext.engine.base import Beam
from latent_ext.hf.output import write_sequences
from latent_ext.hf.prompts import LatentTokens
from latent_ext.hf.stopping import StopRules, cut_answers
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.keys import question_key
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler
from latent_ext.search.result import Trajectory
from latent_ext.search.run import Run

_MEMORY_BYTES = 2 << 30


@dataclass(frozen=True)
class Rollout:
    """What a call of ``generate`` asks of an engine.

    Attributes:
        model: the engines' view of the live model.
        tokens: ids that stand in the sequences.
        paths: trajectories per prompt; with `beam`, those that form the first thought.
        max_new_tokens: thoughts, end token and answer together, as Hugging Face counts.
        temperature: of the answer tokens; 0 is argmax.
        eos: ids that end an answer; the first one is ``model.ids.eos``.
        rules: what else ends an answer.
        engine, weights: see `latent_ext.solve`.
    """

    model: LatentModel
    tokens: LatentTokens
    sampler: Sampler
    paths: int
    max_new_tokens: int
    seed: int
    temperature: float = 0.0
    reward: LatentRM | None = None
    beam: Beam | None = None
    eos: tuple[int, ...] = ()
    rules: StopRules = field(default_factory=StopRules)
    engine: str = "auto"
    weights: str | None = None

    def run(self, prompts: list[Tensor], *, decode_all: bool) -> list[list[Trajectory]]:
        """Trajectories of each prompt, with thoughts, and token ids where they were decoded.

        Raises:
            ValueError: if `max_new_tokens` or the model's positions leave no room for an answer.
        """
        most = self.model.family.latent_length
        room = self.max_new_tokens - most - 1
        if room < 1:
            raise ValueError(
                f"max_new_tokens: got {self.max_new_tokens}; {most} thoughts, the end token and an "
                f"answer need at least {most + 2}"
            )
        if self.model.semantics.stop != "fixed":
            # A row without thoughts has room for this many answer tokens; the others' answers are cut.
            room = self.max_new_tokens - 1
        longest = self.model.max_positions - most - 2
        for row, prompt in enumerate(prompts):
            if len(prompt) > longest:
                raise ValueError(
                    f"input_ids: row {row} has {len(prompt)} tokens; this model takes prompts of at most {longest}"
                )
        runner, _ = choose_engine(
            self.model,
            self.engine,
            max_answer_tokens=room,
            weights=self.weights,
            reward=self.reward,
            samplers=(self.sampler,),
        )
        run = Run(
            self.model,
            runner,
            self.sampler,
            self.reward,
            self.paths,
            self.seed,
            self.temperature,
            decode_all,
            True,
            self.beam,
        )
        prompts = [prompt.to(self.model.device) for prompt in prompts]
        keys = [question_key(prompt) for prompt in prompts]
        found = run.over(prompts, keys, max_answer_tokens=room, memory_bytes=_MEMORY_BYTES)
        for listed in found:
            for trajectory in listed:
                _cut(trajectory, self.max_new_tokens - (trajectory.steps or 0) - 1)
        return found

    def sequences(self, input_ids: Tensor, trajectories: list[list[Trajectory]]) -> Tensor:
        """int64 (rows, length), cut where the stop rules end an answer."""
        pad, eos = self.model.ids.pad, self.model.ids.eos
        written = write_sequences(input_ids, trajectories, self.tokens, eos=eos, pad=pad)
        if len(self.eos) > 1 or self.rules:
            steps = torch.tensor([one.steps for listed in trajectories for one in listed], dtype=torch.int64)
            first = input_ids.shape[1] + steps + 1
            return cut_answers(written, first, rules=self.rules, eos=self.eos, pad=pad)
        return written


def _cut(trajectory: Trajectory, room: int) -> None:
    """Leaves at most `room` answer tokens, the end of sequence included."""
    if trajectory.tokens is not None and len(trajectory.tokens) + bool(trajectory.finished) > room:
        trajectory.tokens, trajectory.finished = trajectory.tokens[:room], False


def stack_thoughts(trajectories: list[list[Trajectory]], device: torch.device) -> Tensor:
    """(rows, T, hidden) on `device`, T that of the longest row; 0 behind the last thought of a shorter one."""
    listed = [one.thoughts for listed in trajectories for one in listed if one.thoughts is not None]
    return pad_sequence(listed, batch_first=True).to(device)


def stack_scores(trajectories: list[list[Trajectory]], device: torch.device) -> Tensor | None:
    """float32 (rows, T) on `device`, padded as the thoughts are; None without a reward."""
    listed = [
        torch.tensor(one.step_scores, dtype=torch.float32)
        for listed in trajectories
        for one in listed
        if one.step_scores is not None
    ]
    return pad_sequence(listed, batch_first=True).to(device) if listed else None


def drawn_seed(seed: int | None) -> int:
    """`seed`, or one drawn from PyTorch's global generator, so that ``torch.manual_seed`` fixes a run.

    Raises:
        ValueError: if `seed` is no whole number of 64 bits.
    """
    if seed is None:
        return int(torch.randint(-(1 << 63), (1 << 63) - 1, ()))
    if not isinstance(seed, int) or not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"seed: got {seed!r}; a whole number of 64 bits is needed")
    return seed
