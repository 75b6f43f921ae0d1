"""engine="reference" where rows end their thoughts by themselves: each row alone, pass after pass (CoLaR)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from latent_ext.engine.base import LatentRequest, LatentRun
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.engine.stopping import may_think, stop_temperature
from latent_ext.ops.arguments import to_signed
from latent_ext.samplers import Sampler

if TYPE_CHECKING:
    from latent_ext.engine.reference import ReferenceEngine


@dataclass
class _RowState:
    cache: DynamicCache  # prompt and all thoughts
    hidden: Tensor  # [1, hidden], after the last pass
    count: int  # thoughts
    open: bool  # the separator was not chosen


def sample(engine: ReferenceEngine, request: LatentRequest) -> LatentRun:
    """The latent phase, one row after another; the run's state has one entry per row."""
    states, stacks = [], []
    for prompt, keys in zip(request.prompts, request.keys.to(engine.model.device), strict=True):
        for key in keys:
            state, thoughts = _think(engine, prompt, key.reshape(1), request)
            states.append(state)
            stacks.append(thoughts)
    counts = torch.tensor([state.count for state in states], device=engine.model.device)
    return LatentRun(request, torch.stack(stacks), states, counts=counts)


def _think(
    engine: ReferenceEngine, prompt: Tensor, key: Tensor, request: LatentRequest
) -> tuple[_RowState, Tensor]:
    sampler, semantics, separator = request.sampler, engine.semantics, engine.model.ids.end
    seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=key.device)
    dropout = RowDropout.of(sampler, seed, key)
    cache, hidden = engine.read_prompt(prompt, key, seed, request)
    most = engine.model.family.latent_length
    thoughts = hidden.new_zeros(most, hidden.shape[1])
    temperature = stop_temperature(semantics, sampler)
    count = 0
    while may_think(prompt, separator, semantics) and count < most:
        position = cache.get_seq_length()
        if count >= semantics.least_thoughts:
            token, _ = engine.draw_token(hidden, key, position, seed, temperature)
            if int(token) == separator:
                return _RowState(cache, hidden, count, open=False), thoughts
        thought = engine.next_thought(hidden, key, position, seed, sampler)
        thoughts[count] = thought
        hidden = engine.read(thought.unsqueeze(1), cache, position, dropout)
        count += 1
    return _RowState(cache, hidden, count, open=True), thoughts


def answer_row(
    engine: ReferenceEngine,
    run: LatentRun,
    row: int,
    key: Tensor,
    seed: int,
    sampler: Sampler,
    max_tokens: int,
    temperature: float,
    top_p: float,
) -> tuple[list[int], Tensor, bool]:
    """One row's tokens, log probability and whether it ended."""
    state: _RowState = run.state[row]  # type: ignore[index]
    cache, device = copy.deepcopy(state.cache), engine.model.device
    keys = key.reshape(1).to(device)
    seeds = torch.tensor([to_signed(seed)], dtype=torch.int64, device=device)
    if engine.semantics.cap == "separator":
        return engine.answer_from(
            cache, cache.get_seq_length(), keys, seeds, sampler, max_tokens, temperature, top_p
        )
    ids, most = engine.model.ids, engine.model.family.latent_length
    separators = int((run.request.prompts[row // run.request.trajectories] == ids.end).sum())
    stochastic, reading = RowDropout.of(sampler, seeds, keys), engine.answer_dropout(sampler, seeds, keys)
    hidden, latest = state.hidden, state.count
    if not state.open:
        separator = engine.embed(torch.tensor([[ids.end]], device=device))
        hidden = engine.read(separator, cache, cache.get_seq_length(), reading)
        separators, latest = separators + 1, 0
    written: list[int] = []
    total = torch.zeros((), device=device)
    for _ in range(max_tokens):
        position = cache.get_seq_length()
        drawn, logprob = engine.draw_token(hidden, keys, position, seeds, temperature, top_p)
        token = int(drawn)
        if separators <= 1 and latest < most and token != ids.end:
            thought = engine.next_thought(hidden, keys, position, seeds, sampler)
            hidden = engine.read(thought.unsqueeze(1), cache, position, stochastic)
            latest += 1
            continue
        total, latest = total + logprob[0], 0
        if ids.end_of_answer(token):
            return written, total, True
        written.append(token)
        separators += token == ids.end
        hidden = engine.read(engine.embed(drawn.unsqueeze(1)), cache, position, reading)
    return written, total, False
