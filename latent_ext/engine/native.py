"""engine="native": packed weights, every linear layer our own, each phase one call of a compiled op.

Nothing that a row computes depends on the other rows: results are equal bit for bit whatever the number of
trajectories, chunks, batch mates or threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine import native_steps
from latent_ext.engine.base import Answers, LatentRequest, LatentRun
from latent_ext.engine.beam import beam_widths, checked_beam, row_of_question
from latent_ext.engine.replay import check_replay
from latent_ext.engine.visible_pads import read_padded
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import PackedModel, pack
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

NO_DENSE_NOISE = "engine 'native' has no dense noise on W_V (wv)"

# Answer tokens for which places are taken at a time.
_ANSWER_BLOCK = 16


@dataclass
class _Prompts:
    """Prompts that were read once.

    Attributes:
        key, value: float32 [layers, prompts, kv_heads, max_prompt, head_dim].
        lengths: int64 [prompts], positions in the cache.
        last_hidden: float32 [prompts, hidden], or None where it was not asked for.
    """

    key: Tensor
    value: Tensor
    lengths: Tensor
    last_hidden: Tensor | None

    def select(self, questions: Tensor) -> _Prompts:
        """The same of some of the prompts, int64 [questions]."""
        last = self.last_hidden
        return _Prompts(
            self.key[:, questions],
            self.value[:, questions],
            self.lengths[questions],
            None if last is None else last[questions],
        )


@dataclass
class _State:
    prompts: _Prompts
    key: Tensor  # [layers, slots, kv_heads, max_suffix, head_dim]
    value: Tensor
    ancestry: Tensor  # [rows, max_suffix]
    suffix_len: Tensor  # [rows]
    prompt_index: Tensor  # [rows]
    keys: Tensor  # [rows]
    seed: Tensor  # [1]


class NativeEngine:
    """Runs a GPT-2 or Llama model on the CPU from packed weights.

    Args:
        model: a loaded generator that `why_not_packable` has nothing against.
        max_answer_tokens: the longest answer that will be asked for.
        weights: "fp32", "bf16" or "int8", see `latent_ext.models.packed.pack`.
    """

    name = "native"

    def __init__(self, model: LatentModel, max_answer_tokens: int, weights: str = "fp32") -> None:
        self.model = model
        self.weights = weights
        self.max_answer_tokens = max_answer_tokens
        head = model.feedback
        assert isinstance(head, ThoughtHead)
        self._head = head
        self.packed = pack(model.body, weights=weights, lm_head=model.answer_head, head=head)

    def _serve(self, sampler: Sampler) -> None:
        """Packs the spectra of W_V as well, once a sampler perturbs them; refuses what is not compiled."""
        if sampler.wv > 0.0:
            raise ValueError(f"sampler: got {str(sampler)!r}; {NO_DENSE_NOISE}; take engine='modules'")
        if sampler.svp > 0.0 and not self.packed.spectra:
            self.packed = pack(
                self.model.body,
                weights=self.weights,
                lm_head=self.model.answer_head,
                head=self._head,
                spectra=True,
            )

    def packed_reward(self, reward: LatentRM) -> PackedModel:
        return pack(reward.module.body, weights=self.weights, score=(reward.head_weight, reward.head_bias))

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> _Prompts | None:
        self._serve(sampler)
        if self.model.semantics.pads == "visible":
            # In the model's own number format: what a pad's pass computes is Hugging Face's.
            read = read_padded(self.model, prompts, sampler)
            key, value = (torch.stack(part).float() for part in (read.keys, read.values))
            return _Prompts(key, value, read.lengths, read.last_hidden.float())
        if sampler.own_prompts:
            return None
        keys = torch.zeros(len(prompts), dtype=torch.int64)
        if sampler.acts_in_body:
            return _read_prompts(
                self.packed, [prompt[:-1] for prompt in prompts], keys, Sampler(), last=False
            )
        return _read_prompts(self.packed, prompts, keys, Sampler(), last=True)

    @torch.no_grad()
    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> _Prompts:
        keys = torch.zeros(len(prompts), dtype=torch.int64)
        return _read_prompts(self.packed_reward(reward), prompts, keys, Sampler(), last=False)

    @torch.no_grad()
    def read_behind(self, reward: LatentRM, prompt: Tensor, inputs: Tensor) -> Tensor:
        """What a LatentRM makes of inputs behind a prompt: final-norm hidden states, float32 [rows, places, hidden].

        Args:
            reward: a LatentRM whose body the engine can pack.
            prompt: int64 [length] ids.
            inputs: [rows, places, hidden], at the positions that follow the prompt.
        """
        prompts = self.read_reward_prompts(reward, [prompt])
        return native_steps.hidden_behind(self.packed_reward(reward), prompts, inputs.float())

    def start(
        self, request: LatentRequest, cache: _Prompts | None, question: Tensor, keys: Tensor, seed: Tensor
    ) -> tuple[_Prompts, Tensor, Tensor]:
        """Prompts, the prompt of each row [rows], and what yields its first thought [rows, hidden].

        That is a hidden state where the prompts have one, else the input of the last prompt token.
        """
        prompt_index = question
        if cache is None:
            own = [request.prompts[b] for b in question.tolist()]
            cache = _read_prompts(self.packed, own, keys, request.sampler, last=True, seed=seed)
            prompt_index = torch.arange(len(keys))
        if cache.last_hidden is None:
            last = torch.stack([request.prompts[b][-1] for b in question.tolist()])
            return cache, prompt_index, self.packed.token_embedding[last]
        return cache, prompt_index, cache.last_hidden[prompt_index]

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: _Prompts | None,
        reward: LatentRM | None = None,
        reward_cache: _Prompts | None = None,
    ) -> LatentRun:
        beam = checked_beam(request, reward, self.model)
        if beam is not None and (beam.lookahead or request.trace):
            assert reward is not None
            assert reward_cache is not None
            return native_steps.search(self, request, beam, cache, reward, reward_cache)
        # Without randomness a question's trajectories share the first one's thoughts.
        shared = request.sampler.deterministic and request.trajectories > 1 and beam is None
        width = 1 if shared else request.trajectories
        sampler, steps = request.sampler, self.model.family.latent_length
        self._serve(sampler)
        keys = request.keys[:, :width].reshape(-1).contiguous()
        question = torch.arange(request.questions).repeat_interleave(width)
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64)
        rows = len(keys)
        kept = beam_widths(beam, width, steps)
        # Rows that there are at the most, and at the end.
        capacity = request.questions * max([width, *(kept_rows for _, kept_rows in kept)])
        last = request.questions * kept[-1][1] if kept else rows

        cache, prompt_index, first = self.start(request, cache, question, keys, seed)
        # The last prompt token where it is still to be read, and all thoughts but the last.
        room = steps if cache.last_hidden is None else max(steps - 1, 0)
        places = max(room, 1)
        key, value = self.packed.new_cache(capacity, places), self.packed.new_cache(capacity, places)
        ancestry = torch.arange(capacity).unsqueeze(1).expand(capacity, places).contiguous()
        thoughts = torch.empty(capacity, steps, self.packed.token_embedding.shape[1])
        scores = None if reward is None else torch.empty(capacity, steps)
        lineage = torch.empty(capacity, steps, dtype=torch.int64)
        final_keys = torch.empty(capacity, dtype=torch.int64)
        final_prompts = torch.empty(capacity, dtype=torch.int64)
        scorer = None if reward is None else self.packed_reward(reward)
        dropout = sampler.dropout
        if steps:
            ops.latent_rollout(
                self.packed.data,
                self.packed.position_embedding,
                first,
                cache.last_hidden is not None,
                keys,
                seed,
                prompt_index,
                cache.lengths,
                cache.key,
                cache.value,
                key,
                value,
                ancestry,
                0,
                None if scorer is None else scorer.data,
                None if scorer is None else scorer.position_embedding,
                None if scorer is None else question,
                None if reward_cache is None else reward_cache.lengths,
                None if reward_cache is None else reward_cache.key,
                None if reward_cache is None else reward_cache.value,
                p=dropout.p if dropout else 0.0,
                per_trajectory=bool(dropout and dropout.per == "trajectory"),
                embedding=bool(dropout and dropout.sites == "residual+embedding"),
                svp=sampler.svp,
                sigma=sampler.noise.sigma if sampler.noise else 0.0,
                relative=bool(sampler.noise and sampler.noise.relative),
                questions=request.questions * (1 if beam is None else beam.subtrees),
                keep=[] if beam is None else [count // beam.subtrees for count, _ in kept],
                candidates=1 if beam is None else beam.candidates,
                thoughts=thoughts,
                step_scores=scores,
                lineage=lineage,
                final_keys=final_keys,
                final_prompts=final_prompts,
            )
        suffix_len = torch.full((last,), room)
        if beam is not None:
            keys, ancestry, prompt_index = final_keys[:last], ancestry[:last], final_prompts[:last]
            state = _State(cache, key, value, ancestry, suffix_len, prompt_index, keys, seed)
            assert scores is not None
            return LatentRun(
                request,
                thoughts[:last],
                state,
                scores[:last],
                keys,
                row_of_question(lineage[:last], width, kept),
            )
        if shared:
            of_leader = torch.arange(rows).repeat_interleave(request.trajectories)
            ancestry, suffix_len, prompt_index = (
                ancestry[of_leader],
                suffix_len[of_leader],
                prompt_index[of_leader],
            )
            thoughts, scores = thoughts[of_leader], None if scores is None else scores[of_leader]
        state = _State(
            cache, key, value, ancestry, suffix_len, prompt_index, request.keys.reshape(-1).contiguous(), seed
        )
        return LatentRun(request, thoughts, state, scores)

    @torch.no_grad()
    def reread(self, run: LatentRun, rows: Tensor) -> LatentRun:
        check_replay(self.model)
        return native_steps.reread(self, run, rows)

    @torch.no_grad()
    def answer(
        self, run: LatentRun, rows: Tensor, *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0
    ) -> Answers:
        if max_tokens > self.max_answer_tokens:
            raise ValueError(
                f"max_tokens: got {max_tokens}; this engine was made for at most {self.max_answer_tokens}"
            )
        state = run.state
        assert isinstance(state, _State)
        ids = self.model.ids
        tokens: list[list[int]] = [[] for _ in range(len(rows))]
        logprobs, finished = torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool)
        alive = torch.arange(len(rows))
        prompt_index, keys = state.prompt_index[rows], state.keys[rows]
        # Without thoughts (T = 0) the end token follows the prompt.
        thought: Tensor | None = run.thoughts[rows, -1].contiguous() if run.thoughts.shape[1] else None
        token = torch.full((len(rows),), ids.end)
        pages = _Pages(state.key, state.value, state.ancestry[rows], state.suffix_len[rows])
        emitted = 0
        while emitted < max_tokens and len(alive):
            block = min(_ANSWER_BLOCK, max_tokens - emitted)
            pages = pages.moved(block + (thought is not None))
            drawn, added, ended = ops.decode_answers(
                self.packed.data,
                self.packed.position_embedding,
                self.packed.token_embedding,
                thought,
                token,
                keys,
                state.seed,
                prompt_index,
                state.prompts.lengths,
                state.prompts.key,
                state.prompts.value,
                pages.key,
                pages.value,
                pages.ancestry,
                pages.lengths,
                temperature=temperature,
                top_p=top_p,
                max_tokens=block,
                end_of_sequence=ids.eos,
            )
            logprobs[alive] += added
            finished[alive] = ended
            for row, written in zip(alive.tolist(), drawn.tolist(), strict=True):
                tokens[row] += [value for value in written if value >= 0]
            emitted += block
            keep = (~ended).nonzero().squeeze(1)
            alive, keys, prompt_index, token = alive[keep], keys[keep], prompt_index[keep], drawn[keep, -1]
            pages, thought = pages.select(keep), None
        return Answers(rows, tokens, logprobs, finished)

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        packed = self.packed
        # Pages of the latent phase and those of the answers as they grow; clean replay holds two latent phases at a time.
        positions = 3 * model.family.latent_length + 2 + min(max_tokens, self.max_answer_tokens)
        if sampler.own_prompts:
            positions += prompt_length
        per_position = 2 * packed.layers * packed.kv_heads * packed.head_dim * 4
        return positions * per_position + model.family.latent_length * packed.token_embedding.shape[1] * 4


@dataclass
class _Pages:
    """Suffix pages on their way through the answer phase; fields as in `_State`."""

    key: Tensor
    value: Tensor
    ancestry: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> _Pages:
        return _Pages(self.key, self.value, self.ancestry[rows].contiguous(), self.lengths[rows])

    def moved(self, more: int) -> _Pages:
        """Pages with room for `more` positions behind what each row has read; row i writes to slot i."""
        rows, held = len(self.lengths), int(self.lengths.max())
        slots, places = self.ancestry[:, :held], torch.arange(held)

        def move(old: Tensor) -> Tensor:
            new = old.new_empty(old.shape[0], rows, old.shape[2], held + more, old.shape[4])
            for layer in range(len(old)):
                new[layer, :, :, :held] = old[layer][slots, :, places].transpose(1, 2)
            return new

        ancestry = torch.arange(rows).unsqueeze(1).expand(rows, held + more).contiguous()
        return _Pages(move(self.key), move(self.value), ancestry, self.lengths.clone())


def _read_prompts(
    packed: PackedModel,
    prompts: Sequence[Tensor],
    keys: Tensor,
    sampler: Sampler,
    *,
    last: bool,
    seed: Tensor | None = None,
) -> _Prompts:
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    longest = int(lengths.max()) if len(prompts) else 0
    key, value = packed.new_cache(len(prompts), longest), packed.new_cache(len(prompts), longest)
    dropout = sampler.dropout
    hidden = ops.read_prompts(
        packed.data,
        packed.position_embedding,
        packed.token_embedding,
        torch.cat(list(prompts)) if prompts else torch.zeros(0, dtype=torch.int64),
        offsets,
        keys,
        torch.zeros(1, dtype=torch.int64) if seed is None else seed,
        p=dropout.p if dropout else 0.0,
        per_trajectory=bool(dropout and dropout.per == "trajectory"),
        embedding=bool(dropout and dropout.sites == "residual+embedding"),
        svp=sampler.svp,
        last_hidden=last,
        prefix_key=key,
        prefix_value=value,
    )
    return _Prompts(key, value, lengths, hidden if last else None)
