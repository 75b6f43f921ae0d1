"""engine="reference" for thoughts that a rule forms: every thought re-reads the whole prompt and all thoughts before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from latent_ext.engine.base import LatentRequest, LatentRun
from latent_ext.engine.beam import checked_beam
from latent_ext.engine.draws import feed, rule_of
from latent_ext.engine.reference import ReferenceEngine, _QuestionState
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.thought_rule import Draw
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler


@dataclass
class _RowStates:
    rows: list[_QuestionState]


class RuleReferenceEngine(ReferenceEngine):
    """`ReferenceEngine` with another latent phase, one row at a time."""

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: None,
        reward: LatentRM | None = None,
        reward_cache: list[Tensor] | None = None,
    ) -> LatentRun:
        checked_beam(request, reward, self.model)
        most, states = self.model.family.latent_length, []
        thoughts: list[Tensor] = []
        counts: list[int] = []
        for prompt, keys in zip(request.prompts, request.keys.to(self.model.device), strict=True):
            listed = []
            for key in keys:
                state, fed = self._sample_row(prompt, key.reshape(1), request)
                listed.append(state)
                assert state.last_thought is not None
                padded = torch.zeros(most, state.last_thought.shape[1], dtype=self.model.dtype)
                padded[: len(fed)] = fed
                thoughts.append(padded.to(self.model.device))
                counts.append(len(fed))
            states.append(_RowStates(listed))
        number = torch.tensor(counts, device=self.model.device)
        return self.scored(
            LatentRun(request, torch.stack(thoughts), states, counts=number), reward, reward_cache
        )

    def _sample_row(
        self, prompt: Tensor, key: Tensor, request: LatentRequest
    ) -> tuple[_QuestionState, Tensor]:
        sampler, length = request.sampler, len(prompt)
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=key.device)
        embedded = self.embed(prompt)
        rule, memory = rule_of(self.model), None
        fed = embedded[:0]
        for t in range(self.model.family.latent_length):
            hidden = self._read_all(embedded, fed, key, seed, request)[0]
            position = torch.tensor([length + t], device=key.device)
            draw = Draw(seed, key, position, sampler.active, self.model.ids.end)
            formed = rule.next_thought(hidden, memory, draw)
            memory = formed.memory
            if formed.ended is not None and bool(formed.ended):
                break
            fed = torch.cat([fed, feed(formed.thought, draw, reference=True)])
        pending = embedded[-1:] if len(fed) == 0 else fed[-1:]
        read = embedded[:-1] if len(fed) == 0 else embedded
        _, cache = self._read_all(read, fed[:-1], key, seed, request, prompt_length=length)
        alone = torch.zeros(1, self.model.family.latent_length, dtype=torch.int64)  # row 0 of a batch of one
        return _QuestionState(cache, len(read) + max(len(fed) - 1, 0), pending, key, alone), fed

    def _read_all(
        self,
        embedded: Tensor,
        thoughts: Tensor,
        key: Tensor,
        seed: Tensor,
        request: LatentRequest,
        prompt_length: int | None = None,
    ) -> tuple[Tensor, DynamicCache]:
        """Hidden state of the last position, [1, hidden], and the cache, of a prompt and thoughts read anew."""
        sampler, cache = request.sampler, DynamicCache()
        stochastic, clean = RowDropout.of(sampler, seed, key), RowDropout.clean(seed, key)
        shared = sampler.scope == "latent"
        clean_length = (prompt_length or len(embedded)) - 1 if shared else 0
        inputs = torch.cat([embedded, thoughts]).unsqueeze(0)
        hidden = inputs[:, -1]
        if clean_length > 0:
            hidden = self.read(inputs[:, :clean_length], cache, 0, clean)
        if clean_length < inputs.shape[1]:
            hidden = self.read(inputs[:, clean_length:], cache, clean_length, stochastic)
        return hidden, cache

    def _answer_row(
        self,
        state: _QuestionState | _RowStates,
        n: int,
        key: Tensor,
        seed: int,
        sampler: Sampler,
        max_tokens: int,
        temperature: float,
        top_p: float,
    ) -> tuple[list[int], Tensor, bool]:
        assert isinstance(state, _RowStates)
        return super()._answer_row(state.rows[n], 0, key, seed, sampler, max_tokens, temperature, top_p)
