"""One latent phase on CUDA, whatever the rung: what goes in, what comes out, and the rows that pruning leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from latent_ext.engine.cuda_prompts import PromptCache
from latent_ext.samplers import Sampler


@dataclass(frozen=True)
class LatentSettings:
    """What a latent phase is besides its tensors; phases of equal settings and shapes share a graph.

    Attributes:
        sampler: noise and dropout.
        steps: thoughts T.
        first_is_hidden: `LatentInputs.first` holds final-norm hidden states; else inputs that are still to be read.
        questions: how many questions the rows belong to, the same number for each, neighbours.
        keep: per step, how many rows each question keeps after it, 0 for all; empty to prune nothing.
        candidates: rows that each kept row becomes for the next step.
    """

    sampler: Sampler
    steps: int
    first_is_hidden: bool
    questions: int = 1
    keep: tuple[int, ...] = ()
    candidates: int = 1

    def rows_by_step(self, rows: int) -> list[int]:
        """How many rows there are at each step, and at the end."""
        counts = [rows]
        for t in range(self.steps):
            if self.keep and self.keep[t] > 0:
                kept = min(self.keep[t], rows // self.questions) * self.questions
                rows = kept * (self.candidates if t + 1 < self.steps else 1)
            counts.append(rows)
        return counts

    @property
    def read_positions(self) -> int:
        """Positions behind its prompt that a row has read at the end: all thoughts but the last, and the start."""
        return self.steps - 1 + (not self.first_is_hidden)


@dataclass(frozen=True)
class LatentInputs:
    """The tensors of a latent phase, on the device.

    Attributes:
        first: [rows, hidden].
        keys: int64 [rows] trajectory keys.
        seed: int64 [1].
        prompt_index: int64 [rows], the prompt of each row.
        prompts: of the generator.
        reward_prompt_index, reward_prompts: of the LatentRM; None without one.
    """

    first: Tensor
    keys: Tensor
    seed: Tensor
    prompt_index: Tensor
    prompts: PromptCache
    reward_prompt_index: Tensor | None = None
    reward_prompts: PromptCache | None = None


@dataclass(frozen=True)
class LatentOutputs:
    """What a latent phase leaves; fields as in `latent_ext.ops.latent_rollout`, for the rows at the end.

    Attributes:
        thoughts: float32 [rows, steps, hidden].
        step_scores: float32 [rows, steps], or None without a LatentRM.
        lineage: int64 [rows, steps]: which row was this trajectory at each step.
        final_keys, final_prompts: int64 [rows].
        key, value: [layers, slots, kv_heads, positions, head_dim], the pages behind the prompts.
        ancestry: int64 [rows, positions].
    """

    thoughts: Tensor
    step_scores: Tensor | None
    lineage: Tensor
    final_keys: Tensor
    final_prompts: Tensor
    key: Tensor
    value: Tensor
    ancestry: Tensor

    def copy(self) -> LatentOutputs:
        """The same values in tensors of their own."""
        scores = None if self.step_scores is None else self.step_scores.clone()
        others = {name: value.clone() for name, value in vars(self).items() if name != "step_scores"}
        return LatentOutputs(step_scores=scores, **others)


def check_keep(keep: Sequence[int], candidates: int, steps: int, reward: object | None) -> None:
    """Raises ValueError for `keep` and `candidates` that do not describe a beam search of `steps` steps."""
    if keep and (len(keep) != steps or min(keep) < 0):
        raise ValueError(
            f"keep: got {list(keep)}; one number of rows >= 0 for each of {steps} steps is needed"
        )
    if any(keep) and reward is None:
        raise ValueError(f"keep: got {list(keep)}; pruning needs a LatentRM")
    if candidates < 1 or (candidates > 1 and not keep):
        raise ValueError(f"candidates: got {candidates}; at least 1 is needed, and 1 where nothing is pruned")
