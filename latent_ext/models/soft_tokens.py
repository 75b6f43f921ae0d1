"""Soft tokens: the next thought is a weighted mean of token embeddings, the weights a distribution over tokens.

Soft Thinking (Zhang et al., arXiv 2505.15778) and Latent-SFT / Latent-GRPO (arXiv 2510.15522, 2604.27998) differ in which
tokens count, in where noise enters and in what ends the phase; `SoftTokens` states these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.models.gamma import log_gammas
from latent_ext.models.thought_rule import Draw, NextThought


@dataclass(frozen=True)
class SoftTokens:
    """A thought rule: weights over the vocabulary from the last hidden state, then ``sum_i w_i E[i]``.

    The phase ends where the end token is the heaviest; it is then fed as a plain token.

    Softmax of logits / temperature; the `top_k` largest, then the smallest set that holds `top_p`, then those of at
    least `min_p` times the largest, each renormalised; of these the `width` largest, renormalised.

    Attributes:
        embedding: (vocabulary, hidden) input embeddings E.
        lm_head: (vocabulary, hidden) output embeddings.
        width: number of tokens that make up a thought.
        temperature: divides the logits.
        top_k, top_p, min_p: filters; None, 1.0 and 0.0 filter nothing.
        noise: where Gumbel noise enters. "weights": on the `width` chosen tokens (Soft Thinking). "choice": on the log
            probabilities of all tokens in the top `noise_top_p` or among the `width` largest, clamped to
            [-1.5, 3], so that it also decides which tokens are chosen; not where the end id is the heaviest
            without noise (Latent-GRPO).
        noise_top_p: of "choice".
        entropy: the phase also ends once the entropy of the softmax (nats) was below this ...
        entropy_steps: ... for so many steps in a row; 0: never.
        randomness: sampler parts that act.
    """

    embedding: Tensor
    lm_head: Tensor
    width: int = 10
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    noise: str = "weights"
    noise_top_p: float = 0.95
    entropy: float = 0.0
    entropy_steps: int = 0
    randomness: tuple[str, ...] = ("dropout", "noise", "gumbel", "dirichlet")

    def __post_init__(self) -> None:
        if self.noise not in ("weights", "choice"):
            raise ValueError(f"noise: got {self.noise!r}; allowed are 'weights', 'choice'")
        if not 1 <= self.width <= len(self.lm_head):
            raise ValueError(f"width: got {self.width}; 1 to {len(self.lm_head)} tokens are allowed")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature: got {self.temperature!r}; a finite number > 0 is needed")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: got {self.top_k}; at least 1 token, or None, is needed")
        for name in ("top_p", "noise_top_p"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; a probability in (0, 1] is needed")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p: got {self.min_p!r}; a probability is needed")

    def next_thought(self, hidden: Tensor, memory: Tensor | None, draw: Draw) -> NextThought:
        """As `ThoughtRule.next_thought`; the memory counts steps of low entropy, int64 (rows,)."""
        logits = (hidden @ self.lm_head.t()).float()
        weights, ids = self.weights(logits, draw)
        # Summed in float32 and rounded once; Soft Thinking sums in the embedding's dtype.
        thought = (weights.unsqueeze(-1) * self.embedding[ids].float()).sum(1).to(hidden.dtype)
        ended = ids[:, 0] == draw.end
        low = None
        if self.entropy_steps > 0:
            probabilities = torch.softmax(logits / self.temperature, -1)
            entropy = torch.special.entr(probabilities).sum(-1)
            before = torch.zeros_like(ids[:, 0]) if memory is None else memory
            low = torch.where(entropy < self.entropy, before + 1, 0)
            ended = ended | (low >= self.entropy_steps)
        return NextThought(thought, ended, low)

    def weights(self, logits: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """The tokens of a thought, heaviest first.

        Args:
            logits: float32 (rows, vocabulary).

        Returns:
            Weights, float32 (rows, width), summing to 1, and token ids, int64 (rows, width).
        """
        gumbel = draw.parts.get("gumbel")
        if gumbel is not None and self.noise == "choice":
            return self._noisy_choice(logits, draw, gumbel)
        probabilities = self._filtered(torch.softmax(logits / self.temperature, -1))
        dirichlet = draw.parts.get("dirichlet")
        if dirichlet is not None:
            probabilities = _dirichlet(probabilities, dirichlet.alpha, draw)
        weights, ids = probabilities.topk(self.width, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        if gumbel is not None:
            noise = draw.gumbels(ids)
            weights = torch.softmax((weights.log() + gumbel.scale * noise) / gumbel.tau, -1)
            weights, order = weights.sort(dim=-1, descending=True, stable=True)
            ids = ids.gather(1, order)
        return weights, ids

    def _filtered(self, probabilities: Tensor) -> Tensor:
        if self.top_k is not None and self.top_k < probabilities.shape[1]:
            kept = torch.zeros_like(probabilities, dtype=torch.bool)
            kept.scatter_(1, probabilities.topk(self.top_k, dim=-1).indices, True)
            probabilities = _renormalised(probabilities, kept)
        if self.top_p < 1.0:
            probabilities = _renormalised(probabilities, _nucleus(probabilities, self.top_p))
        if self.min_p > 0.0:
            kept = probabilities >= self.min_p * probabilities.amax(-1, keepdim=True)
            probabilities = _renormalised(probabilities, kept)
        return probabilities

    def _noisy_choice(self, logits: Tensor, draw: Draw, gumbel) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        clean, clean_ids = logits.topk(self.width, dim=-1)
        logs = logits.log_softmax(-1)
        kept = _nucleus(logs.exp(), self.noise_top_p).scatter(1, clean_ids, True)
        noise = draw.gumbels(logits.shape[1]).clamp(-1.5, 3.0)
        if gumbel.one_sided:
            noise = noise + 1.5
        scores, ids = (logs + gumbel.scale * noise).masked_fill(~kept, -torch.inf).topk(self.width, dim=-1)
        over = clean_ids[:, :1] == draw.end
        weights = torch.where(over, torch.softmax(clean, -1), torch.softmax(scores / gumbel.tau, -1))
        return weights, torch.where(over, clean_ids, ids)


def _renormalised(probabilities: Tensor, kept: Tensor) -> Tensor:
    probabilities = probabilities.masked_fill(~kept, 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True)


def _nucleus(probabilities: Tensor, share: float) -> Tensor:
    """bool (rows, vocabulary): the smallest set of likeliest tokens that holds `share` of the probability."""
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(
        1, ids, ordered.cumsum(-1) - ordered < share
    )


def _dirichlet(probabilities: Tensor, alpha: float, draw: Draw) -> Tensor:
    """One draw of Dirichlet(alpha * p) for every row; tokens of probability 0 keep it."""
    most = int((probabilities > 0).sum(-1).max())
    shapes, ids = probabilities.topk(most, dim=-1)
    logs = log_gammas(alpha * shapes, ids, draw).masked_fill(shapes == 0, -torch.inf)
    return torch.zeros_like(probabilities).scatter(1, ids, torch.softmax(logs, -1).float())
