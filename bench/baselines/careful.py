"""Best-of-N as a careful PyTorch user would write it with Hugging Face's own parts.

Each prompt is read once by the generator and once by the LatentRM and its cache is then expanded, into static
caches of exactly the places needed (measured: faster than growing ones); thoughts need no LM head; the
LatentRM scores all thoughts of a trajectory in one forward over its cache; the answer phase takes the logits
of the last position only, and decodes the winner alone where the selection allows it. Questions of one batch
are padded on the left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from baselines.randomness import Randomness
from baselines.task import CACHE, Outcome, Prompts, Task, choose, until_end

# Rows in memory at a time: caches of GPT-2 small stay below 2 GiB, the budget of `latent_ext.solve`.
MAX_ROWS = 256


@torch.no_grad()
def best_of_n(task: Task, randomness: Randomness) -> Outcome:
    """N trajectories per question; see the module for what is computed.

    Args:
        task: what is asked.
        randomness: masks and noise.
    """
    scores = torch.empty(task.rows, task.latent_length)
    tokens: dict[int, list[int]] = {}
    for first, rows in _batches(task):
        part = replace(task, questions=task.questions[first : first + -(-len(rows) // task.n)])
        batch = _Batch(part, Prompts.of(task.model, part.questions), rows, randomness)
        thoughts = batch.think()
        scores[rows] = batch.score(thoughts)
        keep = torch.arange(len(rows))
        if task.select == "best_of_n":
            best = scores[rows].sum(dim=1).reshape(-1, min(task.n, len(rows))).argmax(dim=1)
            keep = best + torch.arange(len(best)) * task.n
        answers = batch.answer(thoughts[keep, -1], keep)
        tokens |= dict(zip(rows[keep].tolist(), answers, strict=True))
    return choose(task, scores, tokens)


def _batches(task: Task) -> Iterator[tuple[int, Tensor]]:
    """The first question and the rows of each batch: whole questions, or parts of one that is too large."""
    if task.n <= MAX_ROWS:
        step = MAX_ROWS // task.n * task.n
        for start in range(0, task.rows, step):
            yield start // task.n, torch.arange(start, min(start + step, task.rows))
        return
    for question in range(len(task.questions)):
        for start in range(0, task.n, MAX_ROWS):
            row = question * task.n
            yield question, torch.arange(row + start, row + min(start + MAX_ROWS, task.n))


class _Batch:
    """Rows that are in memory together, and the generator's cache of what they have read."""

    def __init__(self, task: Task, prompts: Prompts, rows: Tensor, randomness: Randomness) -> None:
        self.task, self.shared, self.rows, self.randomness = task, prompts, rows, randomness
        self.question = rows // task.n - int(rows[0]) // task.n
        self.prompts = prompts.select(self.question)
        self.length = prompts.ids.shape[1]
        self.cache: StaticCache | None = None

    def think(self) -> Tensor:
        """The latent phase: thoughts [rows, T, hidden]."""
        task, length = self.task, self.length
        places = length + task.latent_length
        if task.sampler.drops and task.sampler.scope == "prompt+latent":
            self.cache = StaticCache(config=task.model.hf.config, max_cache_len=places)
            hidden = self._read(task.embedding(self.prompts.ids), 0, stochastic=True)
        else:
            clean = length - 1 if task.sampler.drops else length
            shared, hidden = _read_prompts(task.body, self.shared, clean)
            self.cache = _expand(shared, self.question, task.model.hf.config, places)
            hidden = hidden[self.question]
            if clean < length:
                hidden = self._read(task.embedding(self.prompts.ids[:, clean:]), clean, stochastic=True)
        thoughts = []
        for t in range(task.latent_length):
            if t > 0:
                hidden = self._read(thoughts[-1].unsqueeze(1), length + t - 1, stochastic=True)
            thoughts.append(self.randomness.noisy(hidden, self.rows, self.prompts.lengths + t))
        return torch.stack(thoughts, dim=1)

    def score(self, thoughts: Tensor) -> Tensor:
        """Step scores fp32 [rows, T]."""
        body, steps = self.task.reward_body, self.task.latent_length
        shared, _ = _read_prompts(body, self.shared, self.length)
        cache = _expand(shared, self.question, body.config, self.length + steps)
        hidden = body(
            inputs_embeds=thoughts,
            position_ids=self.prompts.lengths.unsqueeze(1) + torch.arange(steps),
            attention_mask=self.prompts.mask_to(self.length + steps),
            use_cache=True,
            **{CACHE: cache},
        ).last_hidden_state
        return self.task.reward.module.classifier(hidden).squeeze(-1).float()

    def answer(self, last_thought: Tensor, keep: Tensor) -> list[list[int]]:
        """Answers of some rows of the batch (`keep`), whose last thoughts are [len(keep), hidden]."""
        task, place = self.task, self.length + self.task.latent_length - 1
        assert self.cache is not None
        room = place + 1 + task.max_answer_tokens
        self.cache = _expand(self.cache, keep, task.model.hf.config, room, held=place)
        self.prompts = self.prompts.select(keep)
        end = task.embedding(torch.full((len(keep),), task.model.ids.end))
        # The last thought and the end token in one forward.
        inputs = torch.stack([last_thought, end], dim=1)
        ended = torch.zeros(len(keep), dtype=torch.bool)
        written: list[Tensor] = []
        while len(written) < task.max_answer_tokens and not ended.all():
            hidden = self._read(inputs, place, stochastic=False)
            place += inputs.shape[1]
            token = task.model.hf.get_output_embeddings()(hidden).argmax(dim=1)
            written.append(token)
            ended |= token == task.model.ids.eos
            inputs = task.embedding(token).unsqueeze(1)
        return [until_end(row, task.model.ids.eos) for row in torch.stack(written, dim=1).tolist()]

    def _read(self, inputs: Tensor, first: int, *, stochastic: bool) -> Tensor:
        """Reads inputs [rows, length, hidden] at places first, first + 1, ...; the last hidden state [rows, hidden]."""
        last = first + inputs.shape[1]
        places = torch.arange(first, last) - self.length
        positions = (self.prompts.lengths.unsqueeze(1) + places).clamp_min(0)
        arguments = {CACHE: self.cache, "use_cache": True, "inputs_embeds": inputs}
        arguments |= {"position_ids": positions, "attention_mask": self.prompts.mask_to(last)}
        if not stochastic:
            return self.task.body(**arguments).last_hidden_state[:, -1]
        with self.randomness.dropout(self.task.body, self.rows, positions):
            return self.task.body(**arguments).last_hidden_state[:, -1]


def _read_prompts(body: Any, prompts: Prompts, end: int) -> tuple[DynamicCache, Tensor]:
    """Reads the first `end` places of each prompt once: the cache, and the last hidden state [questions, hidden]."""
    cache = DynamicCache()
    output = body(
        input_ids=prompts.ids[:, :end],
        position_ids=prompts.positions[:, :end],
        attention_mask=prompts.mask_to(end),
        use_cache=True,
        **{CACHE: cache},
    )
    return cache, output.last_hidden_state[:, -1]


def _expand(cache: Any, rows: Tensor, config: Any, places: int, *, held: int | None = None) -> StaticCache:
    """A static cache of `places` places whose row i holds what row rows[i] of `cache` has read (`held` places)."""
    expanded = StaticCache(config=config, max_cache_len=places)
    for layer, old in enumerate(cache.layers):
        expanded.update(old.keys[rows, :, :held], old.values[rows, :, :held], layer)
    return expanded
