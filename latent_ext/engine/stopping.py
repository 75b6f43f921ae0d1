"""engine="modules" where rows end their thoughts by themselves: after every pass a row may choose the separator.

CoLaR's loop (arXiv 2505.16552). The pass over a thought tells whether another one follows, so all of them are read in
the latent phase, stochastic where the sampler drops, and rows that are done leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent_ext.engine.base import Answers, LatentRequest, LatentRun
from latent_ext.engine.decoder import Pages, Prompts, move_pages, step
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.semantics import Semantics
from latent_ext.samplers import Sampler

if TYPE_CHECKING:
    from latent_ext.engine.modules import ModulesEngine


@dataclass(frozen=True)
class Stopped:
    """How the rows came to the end of their thoughts.

    Attributes:
        counts: int64 [rows], thoughts.
        hidden: [rows, hidden], after the last pass.
        open: bool [rows], rows that did not choose the separator.
    """

    counts: Tensor
    hidden: Tensor
    open: Tensor

    def select(self, rows: Tensor) -> Stopped:
        return Stopped(self.counts[rows], self.hidden[rows], self.open[rows])


def stop_temperature(semantics: Semantics, sampler: Sampler) -> float:
    """Temperature at which the separator is drawn: 0 is argmax, also where the sampler draws nothing at all."""
    return 1.0 if semantics.stop == "sampled" and not sampler.deterministic else 0.0


def may_think(prompt: Tensor, separator: int, semantics: Semantics) -> bool:
    """Whether a prompt is thought about at all: LatentTTS takes a separator in the question for the end of thought."""
    return semantics.cap == "separator" or int((prompt == separator).sum()) <= 1


def think(
    engine: ModulesEngine,
    request: LatentRequest,
    prompts: Prompts,
    pages: Pages,
    hidden: Tensor,
    keys: Tensor,
    seed: Tensor,
) -> tuple[Tensor, Stopped]:
    """The latent phase of rows that stop by themselves.

    Args:
        engine: whose model thinks.
        request: for its sampler and prompts.
        prompts, pages: what was read; `pages` grows, row by row.
        hidden: [rows, hidden] after the prompt.
        keys: int64 [rows].
        seed: int64 [1].

    Returns:
        Thoughts [rows, latent_length, hidden], 0 behind a row's last one, and how the rows ended.
    """
    semantics, sampler, blocks = engine.semantics, request.sampler, engine.blocks
    rows, most, separator = len(keys), engine.model.family.latent_length, engine.model.ids.end
    temperature = stop_temperature(semantics, sampler)
    width = rows // max(request.questions, 1)
    allowed = [may_think(prompt, separator, semantics) for prompt in request.prompts]
    hidden = hidden.clone()
    thoughts = hidden.new_zeros(rows, most, hidden.shape[1])
    counts = torch.zeros_like(keys)
    open_rows = torch.ones_like(keys, dtype=torch.bool)
    active = torch.tensor(allowed, device=keys.device).repeat_interleave(width).nonzero().squeeze(1)
    for t in range(most):
        if t >= semantics.least_thoughts:
            view = pages.select(active)
            token, _ = engine.draw_token(hidden[active], prompts, view, keys[active], seed, temperature)
            open_rows[active[token == separator]] = False
            active = active[token != separator]
        if len(active) == 0:
            break
        view = pages.select(active)
        thought = torch.empty_like(hidden[active])
        engine.next_thought(hidden[active], prompts, view, keys[active], seed, sampler, 0, thought, None)
        thoughts[active, t] = thought
        dropout = RowDropout.of(sampler, seed, keys[active])
        hidden[active] = step(blocks, thought, prompts, view, dropout)
        pages.lengths[active] += 1
        counts[active] += 1
    return thoughts, Stopped(counts, hidden, open_rows)


def answer_reentering(
    engine: ModulesEngine,
    run: LatentRun,
    rows: Tensor,
    pages: Pages,
    max_tokens: int,
    temperature: float,
    top_p: float,
) -> Answers:
    """Answers as LatentTTS decodes them: a row that never chose the separator thinks again after one token.

    Args:
        engine: whose model answers.
        run: a run of `think`.
        rows: int64 [n], rows of the run.
        pages: of these rows.
        max_tokens: passes at most; a thought takes one as a token does, and is none of the answer's tokens.
        temperature, top_p: of the tokens; temperature 0 is argmax.
    """
    state, sampler = run.state, run.request.sampler
    prompts, seed, most = state.prompts, state.seed, engine.model.family.latent_length  # type: ignore[attr-defined]
    ids, blocks, device = engine.model.ids, engine.blocks, rows.device
    closing = ids.closing(device)
    reading = RowDropout.of_answer if engine.semantics.dropout_in_answer else RowDropout.clean_of
    stopped: Stopped = state.stopped.select(rows)  # type: ignore[attr-defined]
    keys = state.keys[rows]  # type: ignore[attr-defined]
    pages = move_pages(pages, torch.arange(len(rows), device=device), pages.ancestry.shape[1] + max_tokens)
    in_prompt = [int((prompt == ids.end).sum()) for prompt in run.request.prompts]
    separators = torch.tensor(in_prompt, device=device)[rows // run.request.trajectories]
    latest, hidden = stopped.counts.clone(), stopped.hidden.clone()

    closed = (~stopped.open).nonzero().squeeze(1)
    if len(closed):
        view = pages.select(closed)
        end = torch.full((len(closed),), ids.end, device=device)
        dropout = reading(sampler, seed, keys[closed])
        hidden[closed] = step(blocks, blocks.token_embedding(end), prompts, view, dropout)
        pages.lengths[closed] += 1
        separators[closed] += 1
        latest[closed] = 0

    tokens: list[list[int]] = [[] for _ in range(len(rows))]
    logprobs = torch.zeros(len(rows), device=device)
    finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
    alive = torch.arange(len(rows), device=device)
    for _ in range(max_tokens):
        if len(alive) == 0:
            break
        view = pages.select(alive)
        token, logprob = engine.draw_token(
            hidden[alive], prompts, view, keys[alive], seed, temperature, top_p
        )
        thinks = (separators[alive] <= 1) & (latest[alive] < most) & (token != ids.end)
        ended = ~thinks & torch.isin(token, closing)
        logprobs[alive] += torch.where(thinks, 0.0, logprob)
        finished[alive[ended]] = True
        written = ~thinks & ~ended
        for row, value in zip(alive[written].tolist(), token[written].tolist(), strict=True):
            tokens[row].append(value)
        separators[alive] += (~thinks & (token == ids.end)).to(torch.int64)
        latest[alive] = torch.where(thinks, latest[alive] + 1, 0)
        thought = torch.empty_like(hidden[alive])
        engine.next_thought(hidden[alive], prompts, view, keys[alive], seed, sampler, 0, thought, None)
        inputs = torch.where(thinks.unsqueeze(1), thought, blocks.token_embedding(token))
        # Passes over thoughts are stochastic, as in the latent phase; those over tokens as the switch says.
        going = ~ended
        for chosen, kind in ((thinks & going, RowDropout.of), (~thinks & going, reading)):
            part = chosen.nonzero().squeeze(1)
            if len(part):
                of = alive[part]
                dropout = kind(sampler, seed, keys[of])
                hidden[of] = step(blocks, inputs[part], prompts, pages.select(of), dropout)
                pages.lengths[of] += 1
        alive = alive[going]
    return Answers(rows, tokens, logprobs, finished)
