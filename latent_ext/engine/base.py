"""What every engine offers, and what it works on.

An engine runs three phases on a group of questions: the latent phase, the reward, the answers. It knows
neither selection nor search: those see `LatentRun` and `Answers` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler


@dataclass(frozen=True)
class Beam:
    """Pruning and branching between thoughts (beam search, LatentTTS, arXiv 2510.07745, section 4).

    After every thought each question keeps its `keep` best trajectories by the sum of their step scores (ties to the
    smaller row, NaN last). Each of them becomes `candidates` trajectories for the next thought: child 0 goes on under
    its parent's key, child c under ``keys.child_key(key, step, c)``. So one candidate with all trajectories kept is
    best-of-N.

    Attributes:
        keep: at least 1.
        candidates: at least 1.
        subtrees: independent groups of trajectories, neighbours, in each of which ``keep / subtrees`` are kept (diverse
            verifier tree search, Beeching et al., 2024, "Scaling test-time compute with open models"). It divides
            `keep` and the number of trajectories that form the first thought.
        lookahead: further thoughts by whose scores, too, a trajectory is judged (Snell et al., 2024, arXiv 2408.03314,
            section 5.2). They are rolled out without randomness, and forgotten: what judges a trajectory is where it
            leads by itself. Fewer near the end; 0 for none.
    """

    keep: int
    candidates: int
    subtrees: int = 1
    lookahead: int = 0


@dataclass(frozen=True)
class SearchStep:
    """The candidates for one thought, before pruning. Rows are counted within their question.

    Attributes:
        keys: int64 [questions, candidates].
        parents: int64 [questions, candidates], the candidate for the thought before that each one continues; its own
            number at the first thought.
        scores: float32 [questions, candidates], the LatentRM's scores of this thought.
        ranks: float32 [questions, candidates], what pruning compares: the sum of the scores so far, and of those of the
            thoughts looked ahead to.
        kept: bool [questions, candidates].

    Those of one question (`of_question`, `latent_ext.Result.search`) are [candidates].
    """

    keys: Tensor
    parents: Tensor
    scores: Tensor
    ranks: Tensor
    kept: Tensor

    @classmethod
    def of(
        cls, keys: Tensor, parents: Tensor, scores: Tensor, ranks: Tensor, best: Tensor, questions: int
    ) -> SearchStep:
        """From rows of a batch, [rows] each; `best` int64 are those that are kept."""
        shape = (questions, len(keys) // questions)
        kept = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
        kept[best.reshape(-1)] = True
        listed = (keys, parents, scores, ranks, kept)
        return cls(*(values.reshape(shape).cpu().clone() for values in listed))

    def of_question(self, question: int) -> SearchStep:
        """The same of one question, [candidates] each."""
        return SearchStep(*(getattr(self, entry.name)[question] for entry in fields(self)))

    @classmethod
    def stack(cls, parts: Sequence[SearchStep]) -> SearchStep:
        """Of the questions of all parts, in order."""
        names = (entry.name for entry in fields(cls))
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class LatentRequest:
    """Trajectories to sample: the same number for every question of the group.

    Attributes:
        prompts: int64 [length] prompt ids of each question.
        keys: int64 [questions, trajectories] keys of the trajectories that form the first thought.
        sampler: where randomness enters.
        seed: run seed, 64 bits.
        beam: pruning between thoughts, by the scores of a reward that is then needed; None for none.
        trace: with `beam`, keep what the search looked at, `LatentRun.search`.
    """

    prompts: Sequence[Tensor]
    keys: Tensor
    sampler: Sampler
    seed: int
    beam: Beam | None = None
    trace: bool = False

    @property
    def questions(self) -> int:
        return len(self.prompts)

    @property
    def trajectories(self) -> int:
        return int(self.keys.shape[1])


@dataclass
class LatentRun:
    """A finished latent phase. Row r is trajectory ``r % trajectories`` of question ``r // trajectories``.

    Rows come to differ in their number of thoughts in two ways, which no model has both of:

    - ``Semantics.stop`` (CoLaR; engine/stopping.py, engine/reference_stopping.py): the language model ends the phase, by
      drawing the separator after a pass. Every thought is read in the latent phase, stochastically, since its pass decides.
    - ``NextThought.ended`` of a ``ThoughtRule`` (soft tokens, families of one's own; engine/rule_modules.py,
      engine/rule_reference.py): the rule ends it, looking at the hidden state. The last thought is read, clean, with the
      answer, as where the number is fixed.

    Both fill `counts`, and search does not know them apart.

    Attributes:
        request: what was asked.
        thoughts: [rows, T, hidden], as fed to the model (noise included).
        state: the engine's own caches, from which it goes on to answers.
        scores: fp32 [rows, T], the LatentRM's score of every thought; None without one.
        beam_keys: int64 [rows], keys of the trajectories that pruning has left; None where nothing was pruned.
        lineage: int64 [rows, T], which row of its question each of them was while each thought was formed; None where
            nothing was pruned.
        counts: int64 [rows], how many thoughts each row has, where rows end their phase by themselves; what
            `thoughts` and `scores` hold behind them is 0. None: T each.
        search: one `SearchStep` per thought where the request asks for a trace; else None.
    """

    request: LatentRequest
    thoughts: Tensor
    state: object
    scores: Tensor | None = None
    beam_keys: Tensor | None = None
    lineage: Tensor | None = None
    counts: Tensor | None = None
    search: list[SearchStep] | None = None

    @property
    def rows(self) -> int:
        return int(self.thoughts.shape[0])

    @property
    def trajectories(self) -> int:
        """Trajectories per question at the end."""
        return self.rows // self.request.questions if self.request.questions else self.request.trajectories

    @property
    def keys(self) -> Tensor:
        """int64 [questions, trajectories], the keys at the end."""
        if self.beam_keys is None:
            return self.request.keys
        return self.beam_keys.reshape(self.request.questions, self.trajectories)


@dataclass(frozen=True)
class Answers:
    """Decoded answers of some rows.

    Attributes:
        rows: int64 [n], rows of the run.
        tokens: per row, the answer's token ids without the end-of-sequence token.
        logprobs: fp32 [n], sum of the log probabilities of the answer's tokens, end-of-sequence included
            where reached.
        finished: bool [n], whether the end-of-sequence token was reached within the limit.
    """

    rows: Tensor
    tokens: list[list[int]]
    logprobs: Tensor
    finished: Tensor


def weights_name(dtype: torch.dtype) -> str:
    """ "fp32", "bf16", ...: what results call the number format of weights."""
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def beyond_counts(counts: Tensor, steps: int) -> Tensor:
    """bool [rows, steps], the places behind each row's last thought."""
    return torch.arange(steps, device=counts.device) >= counts.unsqueeze(1)


# Prompts that were read once; opaque to callers, who hand it back to the engine that made it.
PromptCache: TypeAlias = Any


class Engine(Protocol):
    """The three phases. All engines draw the same random numbers and agree to `latent_ext.ops.tolerances`."""

    name: str
    weights: str  # number format of the weights, as `weights_name` says it

    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> PromptCache:
        """Reads what a question's trajectories share (nothing, where the scope gives each its own prompt)."""

    def sample(
        self,
        request: LatentRequest,
        cache: PromptCache,
        reward: LatentRM | None = None,
        reward_cache: PromptCache | None = None,
    ) -> LatentRun:
        """The latent phase: T thoughts of every trajectory, and their scores where there is a reward.

        With ``request.beam`` the reward prunes and branches between the thoughts, and those it has left come back.

        Raises:
            ValueError: if ``request.beam`` is given and `reward` is not.
        """

    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> PromptCache:
        """Reads the prompts with the LatentRM, once per question."""

    def answer(
        self, run: LatentRun, rows: Tensor, *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0
    ) -> Answers:
        """Decodes the answers of `rows` (int64, ascending); temperature 0 is argmax, `top_p` as in `ops.next_token`."""

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        """Memory that one trajectory needs, for planning."""
