"""The LatentRM of engine="modules" along a beam search: it reads every thought as it is formed, and decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine.base import LatentRequest, SearchStep
from latent_ext.engine.beam import Branching
from latent_ext.engine.decoder import Pages, Prompts, open_pages, step
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.family import apply_stages
from latent_ext.rewards.latent_rm import LatentRM


@dataclass
class BeamScores:
    """Scores of the rows that a beam search has left.

    Attributes:
        reward, cache: the LatentRM, and the prompts as it has read them.
        pages: what it has read behind them.
        widths: as `latent_ext.engine.beam.beam_widths` gives them.
        questions: of the batch.
        subtrees: of each question.
        scores: fp32 [rows, T], of the rows that there are.
        lineage: int64 [rows, T], the row of the batch that each of them was.
    """

    reward: LatentRM
    cache: Prompts
    pages: Pages
    widths: list[tuple[int, int]]
    questions: int
    subtrees: int
    scores: Tensor
    lineage: Tensor
    total: Tensor  # [rows]
    best: Tensor  # [groups, keep], of the last thought
    parents: Tensor  # [rows], rows of the thought before
    trace: list[SearchStep]

    @classmethod
    def of(
        cls, reward: LatentRM, cache: Prompts, request: LatentRequest, widths: list[tuple[int, int]]
    ) -> BeamScores:
        """Before the first thought of `request`."""
        count, device = request.trajectories, cache.lengths.device
        question = torch.arange(request.questions, device=device).repeat_interleave(count)
        slots = request.questions * max(count, *(width for _, width in widths))
        pages = open_pages(reward.blocks, question, len(widths), reward.head_weight.dtype, slots=slots)
        rows, steps = len(question), len(widths)
        own = torch.arange(rows, device=device).unsqueeze(1).expand(rows, steps).contiguous()
        scores = torch.zeros(rows, steps, device=device)
        total = torch.zeros(rows, device=device)
        assert request.beam is not None
        subtrees = request.beam.subtrees
        return cls(
            reward,
            cache,
            pages,
            widths,
            request.questions,
            subtrees,
            scores,
            own,
            total,
            question[:0],
            own[:, 0],
            [],
        )

    def read(self, t: int, thought: Tensor, ahead: Sequence[Tensor], keys: Tensor) -> None:
        """Scores thought t of every row, (rows, hidden), and names the best.

        Args:
            ahead: thoughts that the rows would go on with, (rows, hidden) each, whose scores count in the comparison.
            keys: int64 [rows].
        """
        groups = self.questions * self.subtrees
        keep = self.widths[t][0] // self.subtrees
        self.scores[:, t], self.total, self.best = self._score(self.pages, thought, self.total, groups, keep)
        ranks = self.total
        if ahead:
            pages = self.pages.select(torch.arange(len(ranks), device=ranks.device))
            for further in ahead:
                _, ranks, self.best = self._score(pages, further, ranks, groups, keep)
        before = self.trace[-1].keys.shape[1] if self.trace else len(ranks) // max(self.questions, 1)
        parents = self.parents % max(before, 1)
        self.trace.append(SearchStep.of(keys, parents, self.scores[:, t], ranks, self.best, self.questions))

    def _score(
        self, pages: Pages, thought: Tensor, total: Tensor, groups: int, keep: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, device = len(total), thought.device
        clean = RowDropout.clean(
            torch.zeros(1, dtype=torch.int64, device=device),
            torch.zeros(rows, dtype=torch.int64, device=device),
        )
        weight = self.reward.head_weight
        read = step(self.reward.blocks, thought.to(weight.dtype), self.cache, pages, clean)
        hidden = apply_stages(self.reward.stages, read)
        offsets = torch.arange(groups + 1, device=device) * (rows // max(groups, 1))
        return ops.score_and_prune(hidden, weight, self.reward.head_bias, total, offsets, keep=keep)

    def branch(self, t: int, keys: Tensor) -> Branching:
        """Goes on with the best rows after thought t; `keys` int64 [rows] are those before."""
        keep, width = self.widths[t]
        branch = Branching.after(self.best, keys, t + 1, width // keep)
        parents = branch.parents
        self.parents = parents
        self.pages = self.pages.branch(parents)
        self.scores, self.total = self.scores[parents], self.total[parents]
        self.lineage = self.lineage[parents]
        self.lineage[:, t + 1 :] = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        return branch
