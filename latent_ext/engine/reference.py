"""engine="reference": Hugging Face's own forward with hooks, reference ops, only the random numbers shared.

The slow path that every fast one is compared with. One question at a time, its trajectories as a plain batch
over a `DynamicCache`; the LatentRM re-reads prompt and thoughts in one forward without a cache.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Model, LlamaModel, PreTrainedModel

from latent_ext import ops
from latent_ext.engine.base import Answers, LatentRequest, LatentRun, weights_name
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.family import apply_stages
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops import philox, sites
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

# transformers 5.24 renamed the argument, in every body at once, and warns at the old name.
_CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"


@contextmanager
def counter_dropout(body: PreTrainedModel, dropout: RowDropout, positions: Tensor) -> Iterator[None]:
    """Within the context, the forward of `body` applies the counter masks of `dropout`.

    Args:
        body: a ``GPT2Model`` or ``LlamaModel`` in eval mode, so that its own dropout is the identity.
        dropout: keys of the batch's rows.
        positions: int64 [rows, length] of the forward that follows, which is given `inputs_embeds`.
    """
    mask_positions = dropout.mask_positions(positions).reshape(-1)
    keys = dropout.keys.repeat_interleave(positions.shape[1])

    def drop(x: Tensor, site: int) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        dropped = philox.dropout(flat, dropout.seed, keys, mask_positions, site, dropout.p)
        return dropped.to(x.dtype).reshape(x.shape)

    def drop_output(site: int):  # type: ignore[no-untyped-def]
        return lambda _module, _inputs, output: drop(output, site)

    def drop_inputs_embeds(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | {"inputs_embeds": drop(kwargs["inputs_embeds"], sites.EMBEDDING)}

    handles = []
    if dropout.p > 0.0:
        for module, site in _branch_ends(body):
            handles.append(module.register_forward_hook(drop_output(site)))
        if dropout.embedding and isinstance(body, GPT2Model):
            # After the position table has been added.
            handles.append(body.drop.register_forward_hook(drop_output(sites.EMBEDDING)))
        elif dropout.embedding:
            handles.append(body.register_forward_pre_hook(drop_inputs_embeds, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _branch_ends(body: PreTrainedModel) -> Iterator[tuple[nn.Module, int]]:
    """The modules whose outputs "residual" dropout acts on, with their sites."""
    blocks: Any  # nn.ModuleList has no element type
    if isinstance(body, LlamaModel):
        blocks = body.layers
        for layer, block in enumerate(blocks):
            yield block.mlp.down_proj, sites.layer_site(layer, sites.MLP_OUTPUT)
    else:
        blocks = body.h
        for layer, block in enumerate(blocks):
            yield block.attn.resid_dropout, sites.layer_site(layer, sites.ATTENTION_OUTPUT)
            yield block.mlp.dropout, sites.layer_site(layer, sites.MLP_OUTPUT)


@dataclass
class _QuestionState:
    cache: DynamicCache  # [trajectories, ...], everything but the last thought
    length: int  # positions in the cache
    last_thought: Tensor  # [trajectories, hidden]


class ReferenceEngine:
    """Plain PyTorch on the model's own modules."""

    name = "reference"

    def __init__(self, model: LatentModel, max_answer_tokens: int) -> None:
        self.model = model
        self.head = model.family.thought_head(model.hf)
        self.max_answer_tokens = max_answer_tokens
        self.weights = weights_name(model.dtype)

    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> None:
        """Nothing is shared between calls."""

    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> list[Tensor]:
        """The prompts themselves: nothing is read before it is needed."""
        return list(prompts)

    def _read(self, inputs: Tensor, cache: DynamicCache, first: int, dropout: RowDropout) -> Tensor:
        """Reads inputs [rows, length, hidden] at positions first, first + 1, ...

        Returns:
            Final-norm hidden state of the last position, [rows, hidden].
        """
        rows, length = inputs.shape[:2]
        positions = torch.arange(first, first + length, device=inputs.device).expand(rows, length)
        body = self.model.body
        with counter_dropout(body, dropout, positions):
            output = body(inputs_embeds=inputs, position_ids=positions, use_cache=True, **{_CACHE: cache})
        return output.last_hidden_state[:, -1]

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.model.hf.get_input_embeddings()(tokens)

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: None,
        reward: LatentRM | None = None,
        reward_cache: list[Tensor] | None = None,
    ) -> LatentRun:
        states = []
        thoughts = []
        for prompt, keys in zip(request.prompts, request.keys.to(self.model.device), strict=True):
            state, stack = self._sample_question(prompt, keys, request)
            states.append(state)
            thoughts.append(stack)
        run = LatentRun(request, torch.cat(thoughts), states)
        if reward is not None:
            assert reward_cache is not None
            run.scores = self._score(reward, run, reward_cache)
        return run

    def _sample_question(
        self, prompt: Tensor, keys: Tensor, request: LatentRequest
    ) -> tuple[_QuestionState, Tensor]:
        sampler, rows, length = request.sampler, len(keys), len(prompt)
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=keys.device)
        stochastic = RowDropout.of(sampler, seed, keys)
        cache = DynamicCache()
        if sampler.scope == "prompt+latent":
            hidden = self._read(self._embed(prompt.expand(rows, length)), cache, 0, stochastic)
        else:
            if length > 1:
                clean = RowDropout.clean(seed, keys[:1])
                self._read(self._embed(prompt[:-1].unsqueeze(0)), cache, 0, clean)
                cache.batch_repeat_interleave(rows)
            hidden = self._read(self._embed(prompt[-1:].expand(rows, 1)), cache, length - 1, stochastic)
        steps = self.model.family.latent_length
        thought = torch.empty_like(hidden)
        thoughts = torch.empty(rows, steps, hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
        for t in range(steps):
            if t > 0:
                hidden = self._read(thought.unsqueeze(1), cache, length + t - 1, stochastic)
            head = self.head
            ops.next_thought_reference(
                apply_stages(head.stages, hidden),
                head.weight,
                head.bias,
                None,
                keys,
                torch.full_like(keys, length + t),
                seed,
                eps=head.eps,
                norm=head.norm,
                scale=head.scale,
                sigma=sampler.noise.sigma if sampler.noise else 0.0,
                relative=bool(sampler.noise and sampler.noise.relative),
                step=t,
                next_input=thought,
                thoughts=thoughts,
            )
        return _QuestionState(cache, length + steps - 1, thought), thoughts

    def _score(self, reward: LatentRM, run: LatentRun, prompts: Sequence[Tensor]) -> Tensor:
        count = run.request.trajectories
        scores = []
        for b, prompt in enumerate(prompts):
            thoughts = run.thoughts[b * count : (b + 1) * count].to(reward.head_weight.dtype)
            body = reward.module.body
            embedded = body.get_input_embeddings()(prompt)
            inputs = torch.cat([embedded.expand(count, -1, -1), thoughts], dim=1)
            hidden = body(inputs_embeds=inputs, use_cache=False).last_hidden_state
            scores.append(reward.module.classifier(hidden[:, len(prompt) :]).squeeze(-1).float())
        return torch.cat(scores)

    @torch.no_grad()
    def answer(self, run: LatentRun, rows: Tensor, *, max_tokens: int, temperature: float = 0.0) -> Answers:
        if max_tokens > self.max_answer_tokens:
            raise ValueError(
                f"max_tokens: got {max_tokens}; this engine was made for at most {self.max_answer_tokens}"
            )
        count = run.request.trajectories
        tokens: list[list[int]] = []
        logprobs: list[Tensor] = []
        finished: list[bool] = []
        for row in rows.tolist():
            state = run.state[row // count]  # type: ignore[index]
            written, logprob, ended = self._answer_row(
                state,
                row % count,
                run.request.keys[row // count, row % count],
                run.request.seed,
                max_tokens,
                temperature,
            )
            tokens.append(written)
            logprobs.append(logprob)
            finished.append(ended)
        stacked = torch.stack(logprobs) if logprobs else torch.zeros(0)
        return Answers(rows, tokens, stacked, torch.tensor(finished, dtype=torch.bool))

    def _answer_row(
        self, state: _QuestionState, n: int, key: Tensor, seed: int, max_tokens: int, temperature: float
    ) -> tuple[list[int], Tensor, bool]:
        ids, device = self.model.ids, self.model.device
        keys = key.reshape(1).to(device)
        seeds = torch.tensor([to_signed(seed)], dtype=torch.int64, device=device)
        clean = RowDropout.clean(seeds, keys)
        cache = copy.deepcopy(state.cache)
        cache.batch_select_indices(torch.tensor([n], device=device))
        self._read(state.last_thought[n].reshape(1, 1, -1), cache, state.length, clean)
        position = state.length + 1
        token = ids.end
        written: list[int] = []
        total = torch.zeros((), device=device)
        for _ in range(max_tokens):
            hidden = self._read(self._embed(torch.tensor([[token]], device=device)), cache, position, clean)
            position += 1
            drawn, logprob = ops.next_token_reference(
                hidden,
                None,
                None,
                self.model.lm_head,
                keys,
                torch.tensor([position], device=device),
                seeds,
                eps=0.0,
                norm="none",
                temperature=temperature,
            )
            total = total + logprob[0]
            token = int(drawn[0])
            if token == ids.eos:
                return written, total, True
            written.append(token)
        return written, total, False

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        blocks, size = model.blocks, model.dtype.itemsize
        positions = prompt_length + 2 * model.family.latent_length + 2 + max_tokens
        cached = 2 * blocks.layers * blocks.kv_heads * blocks.head_dim
        return positions * (cached + 4 * blocks.hidden_size) * size
