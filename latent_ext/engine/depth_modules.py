"""engine="modules" for depth recurrence: prompts read once per question, keys and values kept once per depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine.base import Answers, LatentRequest, LatentRun, weights_name
from latent_ext.engine.beam import checked_beam
from latent_ext.engine.decoder import Pages, Prompts, move_pages, open_pages, read_prompts, step
from latent_ext.engine.depth_pass import DepthPass, run_depth
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.depth import Attend, DepthSteps
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_rule import Draw
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

# Answer tokens for which places are taken at a time.
_ANSWER_BLOCK = 16


@dataclass
class _State:
    prompts: Prompts
    pages: Pages
    hidden: Tensor  # [rows, hidden], of the last prompt token
    keys: Tensor  # [rows]
    seed: Tensor  # [1]


class DepthModulesEngine:
    """Runs a Huginn or an Ouro through its own linears and the ops of `latent_ext.ops`.

    Every token thinks. The thoughts of a run are the depth states of the last prompt token, the pass that yields the
    first answer token; randomness acts in that pass and in those of the answer's tokens, and with
    scope="prompt+latent" in the whole prompt.
    """

    name = "modules"

    def __init__(self, model: LatentModel, max_answer_tokens: int) -> None:
        feedback = model.feedback
        assert isinstance(feedback, DepthSteps)
        self.model, self.steps = model, feedback
        self.max_answer_tokens = max_answer_tokens
        self.weights = weights_name(model.dtype)

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> Prompts | None:
        if sampler.active and sampler.scope == "prompt+latent":
            return None
        keys = torch.zeros(len(prompts), dtype=torch.int64, device=self.model.device)
        return self._read(prompts, keys, keys[:1], Sampler())

    def _read(self, prompts: Sequence[Tensor], keys: Tensor, seed: Tensor, sampler: Sampler) -> Prompts:
        """All but the last token of every prompt, one key per prompt."""

        def run(steps, inputs, positions, rows, attend) -> Tensor:  # type: ignore[no-untyped-def]
            return run_depth(steps, inputs, Draw(seed, rows.keys, positions, sampler.active), attend).hidden

        cut, rows = [prompt[:-1] for prompt in prompts], RowDropout.clean(seed, keys)
        return read_prompts(self.steps, cut, rows, self.model.dtype, run=run)[0]

    def _step(
        self, tokens: Tensor, prompts: Prompts, pages: Pages, keys: Tensor, seed: Tensor, sampler: Sampler
    ) -> DepthPass:
        """One more token of every row, int64 [rows]."""
        passes: list[DepthPass] = []

        def run(
            steps: DepthSteps, inputs: Tensor, positions: Tensor, rows: RowDropout, attend: Attend
        ) -> Tensor:
            passes.append(run_depth(steps, inputs, Draw(seed, keys, positions, sampler.active), attend))
            return passes[0].hidden

        inputs = self.steps.token_embedding(tokens)
        step(self.steps, inputs, prompts, pages, RowDropout.clean(seed, keys), run=run)
        return passes[0]

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: Prompts | None,
        reward: LatentRM | None = None,
        reward_cache: None = None,
    ) -> LatentRun:
        checked_beam(request, reward, self.model)
        sampler, device = request.sampler, self.model.device
        # Without randomness a question's trajectories share the first one's pass.
        width = 1 if sampler.deterministic else request.trajectories
        keys = request.keys[:, :width].reshape(-1).to(device)
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=device)
        question = torch.arange(request.questions, device=device).repeat_interleave(width)
        last = torch.stack([prompt[-1] for prompt in request.prompts])[question]
        prompts, prompt_index = cache, question
        if prompts is None:
            own = [request.prompts[b] for b in question.tolist()]
            prompts, prompt_index = (
                self._read(own, keys, seed, sampler),
                torch.arange(len(keys), device=device),
            )
        pages = open_pages(self.steps, prompt_index, 1, self.model.dtype)
        hidden, thoughts = self._step(last, prompts, pages, keys, seed, sampler)
        if width < request.trajectories:
            of_leader = torch.arange(len(keys), device=device).repeat_interleave(request.trajectories)
            pages, hidden, thoughts = pages.select(of_leader), hidden[of_leader], thoughts[of_leader]
        state = _State(prompts, pages, hidden, request.keys.reshape(-1).to(device), seed)
        return LatentRun(request, thoughts, state)

    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> None:
        raise ValueError("reward: a LatentRM reads thoughts as positions of a text; depth steps are none")

    @torch.no_grad()
    def answer(
        self, run: LatentRun, rows: Tensor, *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0
    ) -> Answers:
        if max_tokens > self.max_answer_tokens:
            raise ValueError(
                f"max_tokens: got {max_tokens}; this engine was made for at most {self.max_answer_tokens}"
            )
        state, device, ids = run.state, self.model.device, self.model.ids
        assert isinstance(state, _State)
        prompts, seed, sampler = state.prompts, state.seed, run.request.sampler
        pages = move_pages(state.pages, rows, 1 + min(max_tokens, _ANSWER_BLOCK))
        keys, hidden = state.keys[rows], state.hidden[rows]
        tokens: list[list[int]] = [[] for _ in range(len(rows))]
        logprobs = torch.zeros(len(rows), device=device)
        finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
        alive = torch.arange(len(rows), device=device)
        closing = ids.closing(device)
        for emitted in range(max_tokens):
            if len(alive) == 0:
                break
            positions = prompts.lengths[pages.prompt_index] + pages.lengths
            token, logprob = ops.next_token(
                hidden,
                None,
                None,
                self.model.lm_head,
                keys,
                positions,
                seed,
                eps=0.0,
                norm="none",
                temperature=temperature,
                top_p=top_p,
            )
            logprobs[alive] += logprob
            ended = torch.isin(token, closing)
            finished[alive[ended]] = True
            for row, value in zip(alive[~ended].tolist(), token[~ended].tolist(), strict=True):
                tokens[row].append(value)
            keep = (~ended).nonzero().squeeze(1)
            alive, keys, token, pages = alive[keep], keys[keep], token[keep], pages.select(keep)
            if emitted + 1 < max_tokens and len(alive):
                if (emitted + 1) % _ANSWER_BLOCK == 0:
                    every = torch.arange(len(alive), device=device)
                    pages = move_pages(pages, every, 1 + min(max_tokens, emitted + 1 + _ANSWER_BLOCK))
                hidden = self._step(token, prompts, pages, keys, seed, sampler).hidden
        return Answers(rows, tokens, logprobs, finished)

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        steps, size = self.steps, model.dtype.itemsize
        # Pages of the latent phase and, while they are moved, those of the answer phase.
        positions = 3 + max_tokens
        if sampler.active and sampler.scope == "prompt+latent":
            positions += prompt_length
        per_position = 2 * steps.layers * steps.kv_heads * steps.head_dim * size
        return positions * per_position + (steps.depth + 12) * steps.hidden_size * size
