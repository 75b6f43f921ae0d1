"""engine="reference" for depth recurrence: no cache, the whole text is read anew for every token of every row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from latent_ext import ops
from latent_ext.engine.base import Answers, LatentRequest, LatentRun, weights_name
from latent_ext.engine.beam import checked_beam
from latent_ext.engine.depth_pass import DepthPass, run_depth
from latent_ext.models.depth import DepthSteps
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_rule import Draw
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler


class DepthReferenceEngine:
    """Plain PyTorch; what `DepthModulesEngine` is compared with."""

    name = "reference"

    def __init__(self, model: LatentModel, max_answer_tokens: int) -> None:
        feedback = model.feedback
        assert isinstance(feedback, DepthSteps)
        self.model, self.steps = model, feedback
        self.max_answer_tokens = max_answer_tokens
        self.weights = weights_name(model.dtype)

    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> None:
        """Nothing is shared between calls."""

    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> None:
        raise ValueError("reward: a LatentRM reads thoughts as positions of a text; depth steps are none")

    def _read(self, tokens: Tensor, prompt_length: int, key: Tensor, request: LatentRequest) -> DepthPass:
        """A whole text, int64 [length], of which the last token alone is given back."""
        length, device, steps = len(tokens), tokens.device, self.steps
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=device)
        positions = torch.arange(length, device=device)
        first = prompt_length - 1 if request.sampler.scope == "latent" else 0
        draw = Draw(seed, key.reshape(1).expand(length), positions, request.sampler.active)

        def attend(slot: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            # [length, heads, head_dim] -> [1, heads, length, head_dim]
            query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in (query, key, value))
            context = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                is_causal=True,
                scale=steps.scales[slot],
                enable_gqa=steps.heads != steps.kv_heads,
            )
            return context[0].transpose(0, 1)

        whole = run_depth(steps, steps.token_embedding(tokens), draw, attend, positions >= first)
        return DepthPass(whole.hidden[-1:], whole.thoughts[-1])

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: None,
        reward: LatentRM | None = None,
        reward_cache: None = None,
    ) -> LatentRun:
        checked_beam(request, reward, self.model)
        thoughts = [
            self._read(prompt, len(prompt), key, request).thoughts
            for prompt, keys in zip(request.prompts, request.keys.to(self.model.device), strict=True)
            for key in keys
        ]
        return LatentRun(request, torch.stack(thoughts), None)

    @torch.no_grad()
    def answer(
        self, run: LatentRun, rows: Tensor, *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0
    ) -> Answers:
        if max_tokens > self.max_answer_tokens:
            raise ValueError(
                f"max_tokens: got {max_tokens}; this engine was made for at most {self.max_answer_tokens}"
            )
        tokens: list[list[int]] = []
        logprobs, finished = torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool)
        for place, row in enumerate(rows.tolist()):
            b, n = divmod(row, run.request.trajectories)
            text = prompt = run.request.prompts[b]
            key = run.request.keys[b, n].to(self.model.device)
            for _ in range(max_tokens):
                drawn, logprob = ops.next_token_reference(
                    self._read(text, len(prompt), key, run.request).hidden,
                    None,
                    None,
                    self.model.lm_head,
                    key.reshape(1),
                    len(text),
                    to_signed(run.request.seed),
                    eps=0.0,
                    norm="none",
                    temperature=temperature,
                    top_p=top_p,
                )
                logprobs[place] += logprob[0].cpu()
                if self.model.ids.end_of_answer(int(drawn)):
                    finished[place] = True
                    break
                text = torch.cat([text, drawn])
            tokens.append(text[len(prompt) :].tolist())
        return Answers(rows, tokens, logprobs, finished)

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        steps = self.steps
        wide = steps.depth + 3 * steps.layers
        return (prompt_length + max_tokens) * wide * steps.hidden_size * model.dtype.itemsize
