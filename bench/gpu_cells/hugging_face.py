"""The latent phase of Hugging Face's own models with static caches: eagerly, in a CUDA graph, or compiled.

What a careful user would run: the prompt is in the cache, each thought is one pass of the body without LM head, and the
LatentRM reads all thoughts of a trajectory in one forward behind its own cached prompt. Masks are made once. The latent
phase with Gaussian noise alone is measured, so no pass drops anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Model, StaticCache

from gpu_cells.setting import Setting

# transformers 5.24 renamed the argument and warns at the old name.
_CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"

Noise = Callable[[int, Tensor], Tensor]
"""(step, thought [rows, hidden]) -> a standard normal value for each of its elements."""


class HuggingFacePhase:
    """T thoughts of every row, and their scores.

    Args:
        setting: the models.
        question: int64 [rows], the prompt of each row; prompts of one length.
        sigma: deviation of the noise.
        with_reward: whether thoughts are scored.
        forward: wraps a body, for ``torch.compile``; the body itself by default.
    """

    def __init__(
        self,
        setting: Setting,
        question: Tensor,
        sigma: float,
        *,
        with_reward: bool,
        forward: Callable[[Any], Any] = lambda body: body,
    ) -> None:
        self.setting, self.sigma, self.steps = setting, sigma, setting.steps
        device, dtype = setting.device, setting.model.dtype
        prompts = torch.stack([setting.prompts[b] for b in question.tolist()])
        rows, self.length = prompts.shape
        hidden = setting.model.blocks.hidden_size
        self.thoughts = torch.zeros(rows, self.steps, hidden, dtype=dtype, device=device)
        self.scores = torch.zeros(rows, self.steps, dtype=dtype, device=device) if with_reward else None
        places = self.length + self.steps
        self._positions = torch.arange(self.length, places, device=device)
        at = torch.arange(places, device=device)
        # True where a position may be seen; made beforehand, so that no pass builds a mask.
        self._masks = (
            (at <= self._positions.unsqueeze(1))
            .reshape(self.steps, 1, 1, 1, places)
            .expand(-1, rows, -1, -1, -1)
        )
        self._reward_mask = (at <= self._positions.unsqueeze(1)).expand(rows, 1, self.steps, places)
        body = setting.model.body
        self._cache, self._first = _read(body, prompts, places)
        self._body = forward(body)
        if with_reward:
            self._reward_cache, _ = _read(setting.reward.module.body, prompts, places)
            self._reward_body = forward(setting.reward.module.body)

    @torch.no_grad()
    def run(self, noise: Noise | None = None) -> None:
        """Writes `thoughts` and `scores`; noise of torch's own generator by default. Nothing waits for the device."""
        draw = noise or (lambda _t, like: torch.randn_like(like))
        self._rewind(self._cache)
        thought = self._first
        for t in range(self.steps):
            hidden = self._first
            if t > 0:
                hidden = self._forward(
                    self._body, self._cache, thought.unsqueeze(1), t - 1, self._masks[t - 1]
                )[:, 0]
            thought = hidden + self.sigma * draw(t, hidden)
            self.thoughts[:, t] = thought
        if self.scores is not None:
            self._rewind(self._reward_cache)
            read = self._forward(self._reward_body, self._reward_cache, self.thoughts, 0, self._reward_mask)
            self.scores.copy_(self.setting.reward.module.classifier(read).squeeze(-1))

    def _forward(self, body: Any, cache: StaticCache, inputs: Tensor, first: int, mask: Tensor) -> Tensor:
        positions = self._positions[first : first + inputs.shape[1]].expand(len(inputs), -1)
        arguments = {_CACHE: cache, "use_cache": True, "inputs_embeds": inputs}
        return body(position_ids=positions, attention_mask=mask, **arguments).last_hidden_state

    def _rewind(self, cache: StaticCache) -> None:
        """Back to the prompt's end: what is written next overwrites the thoughts of the run before."""
        for layer in cache.layers:
            layer.cumulative_length.fill_(self.length)

    def captured(self) -> Callable[[], None]:
        """The phase as one CUDA graph, after a run that sets libraries up."""
        self.run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        return graph.replay


def _read(body: Any, prompts: Tensor, places: int) -> tuple[StaticCache, Tensor]:
    """Whole prompts into a static cache of `places` places; last hidden state [rows, hidden]."""
    cache = StaticCache(config=body.config, max_cache_len=places)
    with torch.no_grad():
        output = body(input_ids=prompts, use_cache=True, **{_CACHE: cache})
    return cache, output.last_hidden_state[:, -1].clone()
