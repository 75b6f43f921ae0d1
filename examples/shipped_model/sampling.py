"""Many trajectories per question in plain PyTorch, for measuring the generator.

The semantics are those of `scope="latent"`: prompt tokens but the last are read once and clean; the pass
over `<|start-latent|>`, which yields the first thought, and the passes over all thoughts but the last are
stochastic under dropout (residual branches only); the pass over the last thought and the answer are clean.
Gaussian noise is added to every thought in units of the thought's root mean square, and the noisy thought
is what is fed and kept.

Rows are laid out as [questions, rows per question, ...], so that one prompt cache serves all rows of a
question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from network import MaskPool, Network, Shape
from torch import Tensor

_POOL = 8_000_000


@dataclass(frozen=True)
class Noise:
    """How trajectories are made to differ: dropout with probability `p`, Gaussian noise of `sigma` x RMS,
    or both."""

    p: float = 0.0
    sigma: float = 0.0

    def __str__(self) -> str:
        return f"dropout:{self.p:g}" if self.p else f"noise:{self.sigma:g}:relative"


@dataclass
class Questions:
    """Prompts read up to, not including, `<|start-latent|>`.

    keys and values hold [questions, heads, longest, head_dim] per layer, bias [questions, 1, 1, longest]
    hides padding, lengths [questions] counts all prompt tokens.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor
    lengths: Tensor


@dataclass
class Rows:
    """Trajectories in flight: keys and values since `<|start-latent|>`, [questions, rows, heads, seen,
    head_dim]."""

    keys: list[Tensor]
    values: list[Tensor]


class LatentSampler:
    """Samples trajectories of a generator.

    Args:
        weights: float32 or bf16, by the names of `network.initial_weights`.
        shape: sizes.
        start, end: ids of `<|start-latent|>` and `<|end-latent|>`.
        thoughts: thoughts per trajectory.
        noise: what makes trajectories differ.
        seed: of all random numbers; one sampler draws one stream.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        shape: Shape,
        start: int,
        end: int,
        thoughts: int,
        noise: Noise,
        seed: int,
    ) -> None:
        self.clean = Network(weights, shape, MaskPool(0.0, torch.float32, 0, 0))
        self.noisy = (
            Network(weights, shape, MaskPool(noise.p, self.clean.dtype, _POOL, seed))
            if noise.p
            else self.clean
        )
        self.weights, self.shape, self.start, self.end = weights, shape, start, end
        self.thoughts, self.noise = thoughts, noise
        self.generator = torch.Generator().manual_seed(seed)

    def read(self, prompts: list[bytes]) -> Questions:
        """Reads prompts that end in `<|start-latent|>`."""
        lengths = torch.tensor([len(p) for p in prompts])
        longest = int(lengths.max()) - 1
        ids = torch.tensor([[*p[:-1], *([0] * (longest + 1 - len(p)))] for p in prompts])
        _, cache = self.clean.prompt(ids, lengths - 1)
        visible = torch.arange(longest) < (lengths - 1)[:, None]
        bias = torch.zeros(visible.shape, dtype=self.clean.dtype).masked_fill_(~visible, float("-inf"))
        return Questions([k for k, _ in cache], [v for _, v in cache], bias[:, None, None, :], lengths)

    def begin(self, questions: Questions, rows: int) -> tuple[Rows, Tensor]:
        """The pass over `<|start-latent|>`; returns the rows and the first thoughts [questions, rows,
        hidden]."""
        count, heads, _, head_dim = questions.keys[0].shape
        empty = torch.zeros(count, rows, heads, 0, head_dim, dtype=self.clean.dtype)
        state = Rows([empty] * self.shape.layers, [empty] * self.shape.layers)
        ids = torch.full((count, rows, 1), self.start)
        hidden = self.read_rows(self.noisy, questions, state, self.embedded(questions, ids, -1))
        return state, self._perturbed(hidden[:, :, 0])

    def think(self, questions: Questions, state: Rows, thought: Tensor, step: int) -> Tensor:
        """Feeds thought number `step` (0-based); returns the next thought [questions, rows, hidden]."""
        hidden = self.read_rows(self.noisy, questions, state, self.placed(questions, thought, step))
        return self._perturbed(hidden[:, :, 0])

    def sample(self, questions: Questions, rows: int) -> tuple[Rows, Tensor]:
        """Whole trajectories: rows that have read all thoughts but the last, and the thoughts
        [questions, rows, thoughts, hidden]."""
        state, thought = self.begin(questions, rows)
        kept = [thought]
        for step in range(self.thoughts - 1):
            kept.append(self.think(questions, state, kept[-1], step))
        return state, torch.stack(kept, 2)

    def decode(
        self,
        questions: Questions,
        state: Rows,
        last: Tensor,
        stop: int,
        longest: int,
        temperature: float = 0.0,
    ) -> Tensor:
        """Answer tokens after the last thought, int64 [questions, rows, longest], padded with `stop` after
        the end."""
        count, rows, _ = last.shape
        self.read_rows(self.clean, questions, state, self.placed(questions, last, self.thoughts - 1))
        token = torch.full((count, rows), self.end)
        written, done = [], torch.zeros(count, rows, dtype=torch.bool)
        for step in range(longest):
            x = self.embedded(questions, token[..., None], self.thoughts + step)
            logits = self.clean.logits(self.read_rows(self.clean, questions, state, x)[:, :, 0]).float()
            if temperature > 0:
                draws = torch.empty_like(logits).exponential_(generator=self.generator)
                logits = logits / temperature - draws.log()
            token = logits.argmax(-1).masked_fill(done, stop)
            done = done | (token == stop)
            written.append(token)
        return torch.stack(written, 2)

    def _perturbed(self, thought: Tensor) -> Tensor:
        if self.noise.sigma == 0:
            return thought
        rms = thought.float().square().mean(-1, keepdim=True).sqrt()
        noise = torch.randn(thought.shape, generator=self.generator)
        return (thought.float() + self.noise.sigma * rms * noise).to(thought.dtype)

    def embedded(self, questions: Questions, ids: Tensor, offset: int) -> Tensor:
        """Tokens [questions, rows, length] placed from `offset` after each prompt's end; [..., hidden]."""
        x = F.embedding(ids, self.weights["wte.weight"]).to(self.clean.dtype)
        places = questions.lengths[:, None] + offset + torch.arange(ids.shape[2])
        return x + F.embedding(places, self.weights["wpe.weight"]).to(self.clean.dtype)[:, None]

    def placed(self, questions: Questions, thought: Tensor, step: int) -> Tensor:
        """Thoughts [questions, rows, hidden] at the position of step `step`; [questions, rows, 1, hidden]."""
        place = F.embedding(questions.lengths + step, self.weights["wpe.weight"]).to(self.clean.dtype)
        return (thought + place[:, None])[:, :, None]

    def read_rows(self, network: Network, questions: Questions, state: Rows, x: Tensor) -> Tensor:
        """Reads x [questions, rows, length, hidden] after what the rows hold; returns the normed hidden
        states."""
        count, rows, length, hidden = x.shape
        heads, head_dim = self.shape.heads, network.head_dim
        seen = state.keys[0].shape[3]
        own = torch.full((length, seen + length), float("-inf")).triu_(seen + 1).to(x.dtype)
        for layer in range(self.shape.layers):
            query, key, value = network.heads_of(layer, x)  # each [questions, rows, heads, length, head_dim]
            state.keys[layer] = torch.cat([state.keys[layer], key], 3)
            state.values[layer] = torch.cat([state.values[layer], value], 3)
            query = query * (1 / math.sqrt(head_dim))
            flat = query.transpose(1, 2).reshape(count, heads, rows * length, head_dim)
            prompt = (flat @ questions.keys[layer].transpose(-1, -2) + questions.bias).view(
                count, heads, rows, length, -1
            )
            suffix = query @ state.keys[layer].transpose(-1, -2) + own
            weights = torch.cat([prompt, suffix.transpose(1, 2)], -1).softmax(-1)
            longest = prompt.shape[-1]
            mixed = (
                weights[..., :longest].reshape(count, heads, rows * length, longest) @ questions.values[layer]
            )
            mixed = mixed.view(count, heads, rows, length, head_dim)
            mixed = mixed + (weights[..., longest:].transpose(1, 2) @ state.values[layer]).transpose(1, 2)
            x = network.residuals(layer, x, mixed.permute(0, 2, 3, 1, 4).reshape(count, rows, length, hidden))
        return network.normed("ln_f", x)
