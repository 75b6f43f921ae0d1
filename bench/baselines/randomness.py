"""Two sources of randomness for one and the same baseline: torch's own, for timing, and ours, for checking.

Both act at the same places: after the attention and MLP outputs of GPT-2, after `down_proj` of Llama
(LatentTTS wraps that linear), and on a thought before it is fed back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GPT2Model

from latent_ext.ops import philox, sites
from latent_ext.ops.arguments import to_signed
from latent_ext.samplers import Sampler


class Randomness(Protocol):
    """Where a baseline gets its masks and its noise."""

    def dropout(self, body: Any, rows: Tensor, positions: Tensor) -> AbstractContextManager[None]:
        """Within the context `body` drops.

        Args:
            body: in eval mode.
            rows: int64 [batch], the run's rows that the batch holds.
            positions: int64 [batch, length] of the forward that follows.
        """

    def noisy(self, thought: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """The thought [batch, hidden] with its noise; positions int64 [batch] where it will be read."""


class TorchRandomness:
    """`nn.Dropout` in train mode and `torch.randn`, as anybody would write it."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    @contextmanager
    def dropout(self, body: Any, rows: Tensor, positions: Tensor) -> Iterator[None]:
        if not self.sampler.drops:
            yield
            return
        assert self.sampler.dropout is not None
        p = self.sampler.dropout.p
        modules = [module for module, _ in dropout_places(body)]
        own = [module for module in modules if isinstance(module, nn.Dropout)]
        before = [module.p for module in own]
        added = nn.Dropout(p)  # behind a linear that has none of its own
        handles = [
            module.register_forward_hook(lambda _module, _inputs, output: added(output))
            for module in modules
            if not isinstance(module, nn.Dropout)
        ]
        for module in own:
            module.p = p
            module.train()
        try:
            yield
        finally:
            for module, value in zip(own, before, strict=True):
                module.p = value
                module.eval()
            for handle in handles:
                handle.remove()

    def noisy(self, thought: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        if not self.sampler.noisy:
            return thought
        return add_noise(thought, torch.randn_like(thought), self.sampler)


class CounterRandomness:
    """The numbers that `latent_ext` draws: functions of run seed, trajectory key, site and position.

    Args:
        sampler: what is drawn.
        seed: run seed, 64 bits.
        keys: int64 [rows] trajectory keys of the whole run.
    """

    def __init__(self, sampler: Sampler, seed: int, keys: Tensor) -> None:
        self.sampler, self.keys = sampler, keys
        self.seed = torch.tensor([to_signed(seed)])

    @contextmanager
    def dropout(self, body: Any, rows: Tensor, positions: Tensor) -> Iterator[None]:
        if not self.sampler.drops:
            yield
            return
        assert self.sampler.dropout is not None
        p = self.sampler.dropout.p
        keys = self.keys[rows].repeat_interleave(positions.shape[1])

        def hook(site: int) -> Any:
            def apply(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
                flat = output.reshape(-1, output.shape[-1])
                dropped = philox.dropout(flat, self.seed, keys, positions.reshape(-1), site, p)
                return dropped.to(output.dtype).reshape(output.shape)

            return apply

        handles = [module.register_forward_hook(hook(site)) for module, site in dropout_places(body)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def noisy(self, thought: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        if not self.sampler.noisy:
            return thought
        drawn = philox.normals(self.seed, self.keys[rows], positions, sites.NOISE, thought.shape[1])
        return add_noise(thought, drawn, self.sampler)


def add_noise(thought: Tensor, drawn: Tensor, sampler: Sampler) -> Tensor:
    """thought + sigma * drawn, both [rows, hidden]; a relative sigma is in units of the thought's root mean square."""
    assert sampler.noise is not None
    sigma: float | Tensor = sampler.noise.sigma
    if sampler.noise.relative:
        sigma = sampler.noise.sigma * thought.square().mean(dim=1, keepdim=True).sqrt()
    return thought + sigma * drawn


def dropout_places(body: Any) -> list[tuple[nn.Module, int]]:
    """The modules behind whose output a residual mask acts, and the site of each."""
    if isinstance(body, GPT2Model):
        layers: Any = body.h
        return [
            place
            for layer, block in enumerate(layers)
            for place in (
                (block.attn.resid_dropout, sites.layer_site(layer, sites.ATTENTION_OUTPUT)),
                (block.mlp.dropout, sites.layer_site(layer, sites.MLP_OUTPUT)),
            )
        ]
    return [
        (block.mlp.down_proj, sites.layer_site(layer, sites.MLP_OUTPUT))
        for layer, block in enumerate(body.layers)
    ]
