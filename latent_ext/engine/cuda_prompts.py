"""Prompts on CUDA: read in graphs of a few padded shapes, kept as the ops on packed models take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext.engine.cuda_blocks import CudaBlocks
from latent_ext.engine.cuda_capture import Capture, Turn, bucket, power_of_two, to_device
from latent_ext.engine.decoder import Prompts, read_padded
from latent_ext.engine.row_dropout import RowDropout

# Padded prompt lengths are multiples of this.
LENGTH_STEP = 32
# Prompts that are read together where the rung promises no bits.
GROUP = 16


@dataclass(frozen=True)
class PromptCache:
    """Prompts that were read once.

    Attributes:
        key, value: [layers, prompts, kv_heads, max_prompt, head_dim], dtype of the blocks.
        lengths: int64 [prompts], on the device.
        last_hidden: [prompts, hidden], dtype of the blocks.
    """

    key: Tensor
    value: Tensor
    lengths: Tensor
    last_hidden: Tensor

    def select(self, questions: Tensor) -> PromptCache:
        """The same of some of the prompts, int64 [questions]."""
        rows = questions.to(self.lengths.device)
        return PromptCache(self.key[:, rows], self.value[:, rows], self.lengths[rows], self.last_hidden[rows])

    def layered(self) -> Prompts:
        """The same caches, layer by layer."""
        return Prompts(list(self.key.unbind(0)), list(self.value.unbind(0)), self.lengths)


@dataclass(frozen=True)
class PromptDropout:
    """What of a sampler decides how prompts are read; nothing of it depends on a tensor."""

    p: float = 0.0
    per_trajectory: bool = False
    embedding: bool = False


class _Shape:
    """Static buffers and the graph that reads prompts of one padded shape."""

    def __init__(self, blocks: CudaBlocks, count: int, length: int, dropout: PromptDropout) -> None:
        device = blocks.device

        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.tokens, self.keys, self.seed = integers(count, length), integers(count), integers(1)
        self.cache = _empty_cache(blocks, count, length)
        self.turn = Turn(device)
        bound = RowDropout(dropout.p, self.seed, self.keys, dropout.per_trajectory, dropout.embedding)
        layered = self.cache.layered()

        def read() -> None:
            self.cache.last_hidden.copy_(read_padded(blocks, self.tokens, layered, bound))

        self.read = Capture(read, device)


def read_prompts(
    blocks: CudaBlocks,
    prompts: Sequence[Tensor],
    *,
    together: int = 1,
    dropout: PromptDropout = PromptDropout(),
    keys: Tensor | None = None,
    seed: Tensor | None = None,
) -> PromptCache:
    """Reads whole prompts.

    Args:
        blocks: the body.
        prompts: int64 [length] ids each; padded to a multiple of `LENGTH_STEP`, where causality keeps pads out of
            sight.
        together: how many prompts one replay reads at most. With 1 a prompt's cache does not depend on the others;
            with more, a library's products may choose other sums for another number of prompts.
        dropout: none by default.
        keys: int64 [prompts] trajectory keys; needed with dropout.
        seed: int64 [1] run seed; needed with dropout.
    """
    device = blocks.device
    lengths = [len(prompt) for prompt in prompts]
    result = _empty_cache(blocks, len(prompts), _padded(blocks, max(lengths, default=0)))
    result.lengths.copy_(to_device(torch.tensor(lengths, dtype=torch.int64), device))
    for start in range(0, len(prompts), together):
        part = prompts[start : start + together]
        end = start + len(part)
        count = min(power_of_two(len(part)), together)
        longest = _padded(blocks, max(lengths[start:end]))
        shape: _Shape = blocks.captured.take(
            ("prompts", count, longest, dropout),
            lambda count=count, longest=longest: _Shape(blocks, count, longest, dropout),  # type: ignore[misc]
        )
        with shape.turn:
            for row, prompt in enumerate(part):
                shape.tokens[row, : len(prompt)] = prompt
            shape.cache.lengths[: len(part)] = result.lengths[start:end]
            if keys is not None:
                shape.keys[: len(part)] = keys[start:end]
            if seed is not None:
                shape.seed.copy_(seed)
            shape.read()
            result.key[:, start:end, :, :longest] = shape.cache.key[:, : len(part)]
            result.value[:, start:end, :, :longest] = shape.cache.value[:, : len(part)]
            result.last_hidden[start:end] = shape.cache.last_hidden[: len(part)]
    return result


def _padded(blocks: CudaBlocks, length: int) -> int:
    return min(bucket(length, LENGTH_STEP), blocks.max_positions)


def _empty_cache(blocks: CudaBlocks, prompts: int, length: int) -> PromptCache:
    shape = (blocks.layers, prompts, blocks.kv_heads, length, blocks.head_dim)
    device, dtype = blocks.device, blocks.dtype
    return PromptCache(
        torch.zeros(shape, dtype=dtype, device=device),
        torch.zeros(shape, dtype=dtype, device=device),
        torch.ones(prompts, dtype=torch.int64, device=device),
        torch.zeros(prompts, blocks.hidden_size, dtype=dtype, device=device),
    )
