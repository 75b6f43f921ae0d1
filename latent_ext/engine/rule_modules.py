"""engine="modules" for thoughts that a rule forms: the phase may end at another step in every row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_ext.engine.base import LatentRequest, LatentRun
from latent_ext.engine.beam import checked_beam
from latent_ext.engine.decoder import Prompts, open_pages, read_prompts, step
from latent_ext.engine.draws import feed, rule_of
from latent_ext.engine.modules import ModulesEngine, _SharedPrompts, _State
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.thought_rule import Draw
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler


class RuleModulesEngine(ModulesEngine):
    """`ModulesEngine` with another latent phase; the answers are its own."""

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> _SharedPrompts:
        # Always without the last token: a row that thinks no thought reads it again, clean, in the answer phase.
        if sampler.own_prompts:
            return _SharedPrompts(None, None)
        keys = torch.zeros(len(prompts), dtype=torch.int64, device=self.model.device)
        clean = RowDropout.clean(torch.zeros_like(keys[:1]), keys)
        cut = [prompt[:-1] for prompt in prompts]
        return _SharedPrompts(read_prompts(self.blocks, cut, clean, self.model.dtype)[0], None)

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: _SharedPrompts,
        reward: LatentRM | None = None,
        reward_cache: Prompts | None = None,
    ) -> LatentRun:
        checked_beam(request, reward, self.model)
        sampler, device, dtype = request.sampler, self.model.device, self.model.dtype
        # Without randomness a question's trajectories share the first one's thoughts.
        width = 1 if sampler.deterministic else request.trajectories
        keys = request.keys[:, :width].reshape(-1).to(device)
        rows, most = len(keys), self.model.family.latent_length
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=device)
        question = torch.arange(request.questions, device=device).repeat_interleave(width)
        dropout = RowDropout.of(sampler, seed, keys)
        last = torch.stack([prompt[-1] for prompt in request.prompts])[question]
        prompts, prompt_index = cache.cache, question
        if prompts is None:
            own = [request.prompts[b][:-1] for b in question.tolist()]
            prompts, _ = read_prompts(self.blocks, own, dropout, dtype)
            prompt_index = torch.arange(rows, device=device)

        pages = open_pages(self.blocks, prompt_index, 1 + most, dtype)
        view, live = pages.select(torch.arange(rows, device=device)), torch.arange(rows, device=device)
        # What a row has not read yet when its phase ends: the last thought, or the last prompt token.
        pending = self.blocks.token_embedding(last)
        thoughts = torch.zeros(rows, most, self.blocks.hidden_size, dtype=dtype, device=device)
        counts = torch.zeros(rows, dtype=torch.int64, device=device)
        rule, memory = rule_of(self.model), None
        inputs = pending
        for t in range(most):
            hidden = step(self.blocks, inputs, prompts, view, RowDropout.of(sampler, seed, keys[live]))
            positions = prompts.lengths[view.prompt_index] + view.lengths
            draw = Draw(seed, keys[live], positions, sampler.active, self.model.ids.end)
            formed = rule.next_thought(hidden, memory, draw)
            thought, memory = formed.thought, formed.memory
            if formed.ended is not None:
                going = (~formed.ended).nonzero().squeeze(1)
                live, view, draw, thought = (
                    live[going],
                    view.select(going),
                    draw.select(going),
                    thought[going],
                )
                memory = None if memory is None else memory[going]
            if len(live) == 0:
                break
            inputs = feed(thought, draw)
            thoughts[live, t] = pending[live] = inputs
            counts[live] += 1
        # A row has read the last prompt token and all thoughts but its last one.
        pages.lengths = counts.clone()
        state = _State(prompts, pages, pending, request.keys.reshape(-1).to(device), seed)
        if width < request.trajectories:
            of_leader = torch.arange(rows, device=device).repeat_interleave(request.trajectories)
            state.pages, state.last_thought = pages.select(of_leader), pending[of_leader]
            thoughts, counts = thoughts[of_leader], counts[of_leader]
        return self.scored(LatentRun(request, thoughts, state, counts=counts), reward, reward_cache)
