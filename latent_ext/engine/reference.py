"""engine="reference": Hugging Face's own forward with hooks, reference ops, only the random numbers shared.

The slow path that every fast one is compared with. One question at a time, its trajectories as a plain batch
over a `DynamicCache`; the LatentRM re-reads prompt and thoughts in one forward without a cache.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from latent_ext import ops
from latent_ext.engine import reference_stopping
from latent_ext.engine.base import (
    Answers,
    Beam,
    LatentRequest,
    LatentRun,
    SearchStep,
    beyond_counts,
    weights_name,
)
from latent_ext.engine.beam import Branching, beam_widths, best_of_groups, checked_beam
from latent_ext.engine.counter_dropout import counter_dropout
from latent_ext.engine.replay import check_replay
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.engine.visible_pads import CACHE_ARGUMENT, read_padded
from latent_ext.models.family import ThoughtHead, head_outputs
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler


@dataclass
class _QuestionState:
    cache: DynamicCache  # [trajectories, ...], everything but the last thought
    length: int  # positions in the cache
    last_thought: Tensor | None  # [trajectories, hidden]; None without thoughts (T = 0)
    keys: Tensor  # [trajectories]
    lineage: Tensor  # [trajectories, T]
    trace: list[SearchStep] = field(default_factory=list)  # of this question alone; empty without a beam


class ReferenceEngine:
    """Plain PyTorch on the model's own modules."""

    name = "reference"

    def __init__(self, model: LatentModel, max_answer_tokens: int) -> None:
        self.model = model
        self.head = model.feedback
        self.semantics = model.semantics
        self.max_answer_tokens = max_answer_tokens
        self.weights = weights_name(model.dtype)

    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> None:
        """Nothing is shared between calls."""

    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> list[Tensor]:
        """The prompts themselves: nothing is read before it is needed."""
        return list(prompts)

    def read(self, inputs: Tensor, cache: DynamicCache, first: int, dropout: RowDropout) -> Tensor:
        """Reads inputs [rows, length, hidden] at positions first, first + 1, ...

        Returns:
            Final-norm hidden state of the last position, [rows, hidden].
        """
        rows, length = inputs.shape[:2]
        positions = torch.arange(first, first + length, device=inputs.device).expand(rows, length)
        body = self.model.body
        with counter_dropout(body, dropout, positions):
            output = body(
                inputs_embeds=inputs, position_ids=positions, use_cache=True, **{CACHE_ARGUMENT: cache}
            )
        return output.last_hidden_state[:, -1]

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.hf.get_input_embeddings()(tokens)

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: None,
        reward: LatentRM | None = None,
        reward_cache: list[Tensor] | None = None,
    ) -> LatentRun:
        beam = checked_beam(request, reward, self.model)
        if self.semantics.stop != "fixed":
            run = reference_stopping.sample(self, request)
            return self.scored(run, reward, reward_cache)
        states = []
        thoughts = []
        places = request.keys.to(self.model.device)
        read = request.prompts if reward_cache is None else reward_cache
        for prompt, keys, scored in zip(request.prompts, places, read, strict=True):
            state, stack = self._sample_question(prompt, keys, request, reward, scored)
            states.append(state)
            thoughts.append(stack)
        run = LatentRun(request, torch.cat(thoughts), states)
        if beam is not None:
            run.beam_keys = torch.cat([state.keys for state in states])
            run.lineage = torch.cat([state.lineage for state in states])
            if request.trace:
                run.search = [
                    SearchStep.stack(of_step) for of_step in zip(*(s.trace for s in states), strict=True)
                ]
        return self.scored(run, reward, reward_cache)

    def _sample_question(
        self, prompt: Tensor, keys: Tensor, request: LatentRequest, reward: LatentRM | None, scored: Tensor
    ) -> tuple[_QuestionState, Tensor]:
        sampler, rows = request.sampler, len(keys)
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=keys.device)
        stochastic = RowDropout.of(sampler, seed, keys)
        cache, hidden = self.read_prompt(prompt, keys, seed, request)
        length = cache.get_seq_length()
        steps = self.model.family.latent_length
        thought = torch.empty_like(hidden)
        thoughts = torch.empty(rows, steps, hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
        lineage = torch.arange(rows, device=keys.device).unsqueeze(1).repeat(1, steps)
        widths = beam_widths(request.beam, rows, steps)
        trace: list[SearchStep] = []
        parents = torch.arange(rows, device=keys.device)
        for t in range(steps):
            if t > 0:
                hidden = self.read(thought.unsqueeze(1), cache, length + t - 1, stochastic)
            thought = self.next_thought(hidden, keys, length + t, seed, sampler)
            thoughts[:, t] = thought
            if widths:
                assert reward is not None
                keep, width = widths[t]
                assert request.beam is not None
                reading = [thoughts[:, : t + 1]]
                reading += self._look_ahead(
                    request.beam, thought, cache, length + t, keys, seed, steps - 1 - t
                )
                scores = self._score_thoughts(reward, scored, torch.cat(reading, dim=1))
                ranks, groups = scores.sum(1), request.beam.subtrees
                best = best_of_groups(ranks, groups, keep // groups)
                trace.append(SearchStep.of(keys, parents, scores[:, t], ranks, best, 1))
                branch = Branching.after(best, keys, t + 1, width // keep)
                keys, parents = branch.keys, branch.parents
                cache.batch_select_indices(parents)
                thought, thoughts, lineage = thought[parents], thoughts[parents], lineage[parents]
                lineage[:, t + 1 :] = torch.arange(width, device=keys.device).unsqueeze(1)
                stochastic = RowDropout.of(sampler, seed, keys)
        held = cache.get_seq_length()
        return _QuestionState(cache, held, thought if steps else None, keys, lineage, trace), thoughts

    def _look_ahead(
        self,
        beam: Beam,
        thought: Tensor,
        cache: DynamicCache,
        position: int,
        keys: Tensor,
        seed: Tensor,
        left: int,
    ) -> list[Tensor]:
        """Thoughts [rows, 1, hidden] that follow `thought`, read at `position`, without randomness; at most `left`."""
        found = []
        cache = copy.deepcopy(cache) if beam.lookahead else cache
        for ahead in range(min(beam.lookahead, left)):
            hidden = self.read(thought.unsqueeze(1), cache, position + ahead, RowDropout.clean(seed, keys))
            thought = self.next_thought(hidden, keys, position + ahead + 1, seed, Sampler())
            found.append(thought.unsqueeze(1))
        return found

    def read_prompt(
        self, prompt: Tensor, keys: Tensor, seed: Tensor, request: LatentRequest
    ) -> tuple[DynamicCache, Tensor]:
        """A cache that holds the prompt for every key, and the final-norm hidden state behind it, [rows, hidden]."""
        sampler, rows, length = request.sampler, len(keys), len(prompt)
        if self.semantics.pads == "visible":
            padded = read_padded(self.model, request.prompts, sampler)
            mine = next(b for b, other in enumerate(request.prompts) if other is prompt)
            chosen = torch.full((rows,), mine, device=keys.device)
            padded.cache.batch_select_indices(chosen)
            return padded.cache, padded.last_hidden[chosen]
        stochastic = RowDropout.of(sampler, seed, keys)
        cache = DynamicCache()
        if sampler.scope == "prompt+latent":
            return cache, self.read(self.embed(prompt.expand(rows, length)), cache, 0, stochastic)
        if length > 1:
            clean = RowDropout.clean(seed, keys[:1])
            self.read(self.embed(prompt[:-1].unsqueeze(0)), cache, 0, clean)
            cache.batch_repeat_interleave(rows)
        return cache, self.read(self.embed(prompt[-1:].expand(rows, 1)), cache, length - 1, stochastic)

    @torch.no_grad()
    def reread(self, run: LatentRun, rows: Tensor) -> LatentRun:
        check_replay(self.model)
        assert isinstance(run.state, list)
        states, width = list(run.state), run.trajectories
        for b in (rows // width).unique().tolist():
            prompt, state = run.request.prompts[b], states[b]
            own = rows[rows // width == b]
            seed = torch.zeros(1, dtype=torch.int64, device=rows.device)
            cache = DynamicCache()
            self.read(self.embed(prompt.unsqueeze(0)), cache, 0, RowDropout.clean(seed, state.keys[:1]))
            cache.batch_repeat_interleave(len(own))
            before = run.thoughts[own, :-1]
            if before.shape[1]:
                self.read(before, cache, len(prompt), RowDropout.clean(seed, state.keys[own % width]))
            place = torch.zeros(width, dtype=torch.int64, device=rows.device)
            place[own % width] = torch.arange(len(own), device=rows.device)
            cache.batch_select_indices(place)
            states[b] = replace(state, cache=cache)
        return replace(run, state=states)

    def next_thought(
        self, hidden: Tensor, keys: Tensor, position: int, seed: Tensor, sampler: Sampler
    ) -> Tensor:
        """The thought [rows, hidden] that follows hidden states [rows, hidden] and will be read at `position`."""
        head, thought = self.head, torch.empty_like(hidden)
        assert isinstance(head, ThoughtHead)
        mean, log_std = head_outputs(head, hidden, deviation=sampler.draws_from_head)
        ops.next_thought_reference(
            mean,
            head.weight,
            head.bias,
            log_std,
            keys,
            torch.full_like(keys, position),
            seed,
            eps=head.eps,
            norm=head.norm,
            scale=head.scale,
            sigma=sampler.sigma,
            relative=bool(sampler.noise and sampler.noise.relative),
            next_input=thought,
        )
        return thought

    def draw_token(
        self,
        hidden: Tensor,
        keys: Tensor,
        position: int,
        seed: Tensor,
        temperature: float,
        top_p: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Token and log probability, both [rows]; a token is indexed by the position that it will be read at."""
        return ops.next_token_reference(
            hidden,
            None,
            None,
            self.model.answer_head,
            keys,
            torch.full_like(keys, position),
            seed,
            eps=0.0,
            norm="none",
            temperature=temperature,
            top_p=top_p,
        )

    def scored(self, run: LatentRun, reward: LatentRM | None, prompts: list[Tensor] | None) -> LatentRun:
        """The run with its scores, where there is a reward."""
        if reward is not None:
            assert prompts is not None
            run.scores = self._score(reward, run, prompts)
            if run.counts is not None:
                run.scores[beyond_counts(run.counts, run.scores.shape[1])] = 0.0
        return run

    def _score(self, reward: LatentRM, run: LatentRun, prompts: Sequence[Tensor]) -> Tensor:
        count = run.trajectories
        return torch.cat(
            [
                self._score_thoughts(reward, prompt, run.thoughts[b * count : (b + 1) * count])
                for b, prompt in enumerate(prompts)
            ]
        )

    def _score_thoughts(self, reward: LatentRM, prompt: Tensor, thoughts: Tensor) -> Tensor:
        """thoughts [rows, T, hidden] behind what the LatentRM reads before them -> fp32 [rows, T]."""
        body = reward.module.body
        embedded = body.get_input_embeddings()(prompt).expand(len(thoughts), -1, -1)
        inputs = torch.cat([embedded, thoughts.to(reward.head_weight.dtype)], dim=1)
        hidden = body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return reward.module.score(hidden[:, len(prompt) :]).float()

    @torch.no_grad()
    def answer(
        self, run: LatentRun, rows: Tensor, *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0
    ) -> Answers:
        if max_tokens > self.max_answer_tokens:
            raise ValueError(
                f"max_tokens: got {max_tokens}; this engine was made for at most {self.max_answer_tokens}"
            )
        count, keys, sampler = run.trajectories, run.keys, run.request.sampler
        tokens: list[list[int]] = []
        logprobs: list[Tensor] = []
        finished: list[bool] = []
        for row in rows.tolist():
            key = keys[row // count, row % count]
            how = (key, run.request.seed, sampler, max_tokens, temperature, top_p)
            if self.semantics.stop != "fixed":
                written, logprob, ended = reference_stopping.answer_row(self, run, row, *how)
            else:
                state = run.state[row // count]  # type: ignore[index]
                written, logprob, ended = self._answer_row(state, row % count, *how)
            tokens.append(written)
            logprobs.append(logprob)
            finished.append(ended)
        stacked = torch.stack(logprobs) if logprobs else torch.zeros(0)
        return Answers(rows, tokens, stacked, torch.tensor(finished, dtype=torch.bool))

    def _answer_row(
        self,
        state: _QuestionState,
        n: int,
        key: Tensor,
        seed: int,
        sampler: Sampler,
        max_tokens: int,
        temperature: float,
        top_p: float,
    ) -> tuple[list[int], Tensor, bool]:
        device = self.model.device
        keys = key.reshape(1).to(device)
        seeds = torch.tensor([to_signed(seed)], dtype=torch.int64, device=device)
        cache = copy.deepcopy(state.cache)
        cache.batch_select_indices(torch.tensor([n], device=device))
        dropout = self.answer_dropout(sampler, seeds, keys)
        position = state.length
        if state.last_thought is not None:
            self.read(state.last_thought[n].reshape(1, 1, -1), cache, position, dropout)
            position += 1
        return self.answer_from(cache, position, keys, seeds, sampler, max_tokens, temperature, top_p)

    def answer_dropout(self, sampler: Sampler, seed: Tensor, keys: Tensor) -> RowDropout:
        """Dropout of the passes over the answer: none, but for families that say so."""
        if self.semantics.dropout_in_answer:
            return RowDropout.of_answer(sampler, seed, keys)
        return RowDropout.clean(seed, keys)

    def answer_from(
        self,
        cache: DynamicCache,
        position: int,
        keys: Tensor,
        seeds: Tensor,
        sampler: Sampler,
        max_tokens: int,
        temperature: float,
        top_p: float,
    ) -> tuple[list[int], Tensor, bool]:
        """One row's tokens, log probability and whether it ended; `position` is the end token's."""
        ids, device = self.model.ids, self.model.device
        dropout = self.answer_dropout(sampler, seeds, keys)
        token = ids.end
        written: list[int] = []
        total = torch.zeros((), device=device)
        for _ in range(max_tokens):
            hidden = self.read(self.embed(torch.tensor([[token]], device=device)), cache, position, dropout)
            position += 1
            drawn, logprob = self.draw_token(hidden, keys, position, seeds, temperature, top_p)
            total = total + logprob[0]
            token = int(drawn[0])
            if ids.end_of_answer(token):
                return written, total, True
            written.append(token)
        return written, total, False

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        blocks, size = model.blocks, model.dtype.itemsize
        positions = prompt_length + 2 * model.family.latent_length + 2 + max_tokens
        cached = 2 * blocks.layers * blocks.kv_heads * blocks.head_dim
        return positions * (cached + 4 * blocks.hidden_size) * size
