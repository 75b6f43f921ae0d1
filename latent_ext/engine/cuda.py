"""engine="native" on a CUDA device: prompts and answers in CUDA graphs, the latent phase by one of three rungs.

With rung "persistent" or "stream" a trajectory's thoughts and scores do not depend on what runs beside it, to the last
bit. Prompts are then read one by one. Answers go through a library's products, whatever the rung: their random numbers
are the same, their log probabilities agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latent_ext.engine.base import Answers, LatentRequest, LatentRun
from latent_ext.engine.beam import beam_widths, checked_beam, row_of_question
from latent_ext.engine.cuda_answers import AnswerInputs, decode
from latent_ext.engine.cuda_blocks import CudaBlocks, cuda_blocks
from latent_ext.engine.cuda_capture import to_device
from latent_ext.engine.cuda_graph_phase import Generator, Scorer, run_graph
from latent_ext.engine.cuda_latent import LatentInputs, LatentOutputs, LatentSettings, check_keep
from latent_ext.engine.cuda_prompts import GROUP, PromptCache, PromptDropout, read_prompts
from latent_ext.engine.cuda_rollout import run_rollout
from latent_ext.engine.visible_pads import read_padded
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import pack
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

NO_VALUE_NOISE = "engine 'native' has no noise on W_V (svp, wv) on CUDA"
NO_STEPS = "engine 'native' on a CUDA device neither looks ahead nor keeps a trace"
NO_CONTINUATIONS = "engine 'native' on a CUDA device does not continue trajectories from a thought"
NO_REPLAY = "engine 'native' on a CUDA device reads no given thoughts"
NO_NUCLEUS = "engine 'native' draws from all tokens on CUDA"


@dataclass
class _State:
    prompts: PromptCache
    key: Tensor  # [layers, slots, kv_heads, positions, head_dim]
    value: Tensor
    ancestry: Tensor  # [rows, positions]
    held: int  # positions that every row has read behind its prompt
    prompt_index: Tensor  # [rows]
    keys: Tensor  # [rows]
    seed: Tensor  # [1]


class CudaEngine:
    """Runs a GPT-2 or Llama model on the device where it is.

    Args:
        model: a loaded generator that `why_not_packable` has nothing against.
        max_answer_tokens: the longest answer that will be asked for.
        weights: "fp32" or "bf16"; another format than the model's own is a copy.
        rung: "persistent", "stream" or "graph", see `latent_ext.engine.cuda_rungs`.

    Raises:
        ValueError: for another format.
    """

    name = "native"

    def __init__(self, model: LatentModel, max_answer_tokens: int, weights: str, rung: str) -> None:
        self.model = model
        self.weights = weights
        self.rung = rung
        self.max_answer_tokens = max_answer_tokens
        head = model.feedback
        assert isinstance(head, ThoughtHead)
        self._head = head
        beside = [model.answer_head, *_tensors(self._head)]
        self.blocks: CudaBlocks = cuda_blocks(model.body, weights, beside)
        self.lm_head = self.blocks.cast(model.answer_head)
        self._generator = Generator(self.blocks, _cast(self._head, self.blocks))
        self._together = GROUP if rung == "graph" else 1

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> PromptCache | None:
        if self.model.semantics.pads == "visible":
            # In the model's own number format: what a pad's pass computes is Hugging Face's.
            read = read_padded(self.model, prompts, sampler)
            key, value = (torch.stack(part).to(self.blocks.dtype) for part in (read.keys, read.values))
            return PromptCache(key, value, read.lengths, read.last_hidden.to(self.blocks.dtype))
        if sampler.drops and sampler.scope == "prompt+latent":
            return None
        # Where dropout acts on the last token's pass, that pass is part of the latent phase.
        shared = [prompt[:-1] for prompt in prompts] if sampler.drops else prompts
        return read_prompts(self.blocks, shared, together=self._together)

    @torch.no_grad()
    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> PromptCache:
        return read_prompts(self._scorer(reward).blocks, prompts, together=self._together)

    def _scorer(self, reward: LatentRM) -> Scorer:
        weight, bias = reward.head_weight, reward.head_bias
        blocks = cuda_blocks(reward.module.body, self.weights, [weight, bias])
        return Scorer(blocks, blocks.cast(weight), blocks.cast(bias))

    @torch.no_grad()
    def inputs(
        self,
        request: LatentRequest,
        cache: PromptCache | None,
        reward_cache: PromptCache | None = None,
    ) -> tuple[LatentSettings, LatentInputs]:
        """What the latent phase of a request takes, on the device.

        Args:
            request: trajectories to sample.
            cache: from `read_prompts`.
            reward_cache: from `read_reward_prompts`, or None without a LatentRM.
        """
        sampler, device = request.sampler, self.model.device
        if sampler.svp > 0.0 or sampler.wv > 0.0:
            raise ValueError(f"sampler: got {str(sampler)!r}; {NO_VALUE_NOISE}; take engine='modules'")
        count = request.trajectories
        keys = to_device(request.keys.reshape(-1).contiguous(), device)
        seed = torch.full((1,), to_signed(request.seed), dtype=torch.int64, device=device)
        question = _repeated(request.questions, count, device)
        prompt_index = question
        first_is_hidden = cache is None or not sampler.drops
        if cache is None:
            assert sampler.dropout is not None
            dropout = PromptDropout(
                sampler.dropout.p,
                sampler.dropout.per == "trajectory",
                sampler.dropout.sites == "residual+embedding",
            )
            own = [prompt for prompt in request.prompts for _ in range(count)]
            cache = read_prompts(
                self.blocks, own, together=self._together, dropout=dropout, keys=keys, seed=seed
            )
            prompt_index = torch.arange(len(keys), device=device)
        if first_is_hidden:
            first = cache.last_hidden[prompt_index]
        else:
            start = torch.stack([prompt[-1] for prompt in request.prompts])
            first = self.blocks.token_embedding(start)[question]
        settings = LatentSettings(
            sampler, self.model.family.latent_length, first_is_hidden, questions=request.questions
        )
        inputs = LatentInputs(
            first, keys, seed, prompt_index, cache, None if reward_cache is None else question, reward_cache
        )
        return settings, inputs

    @torch.no_grad()
    def roll_out(
        self, settings: LatentSettings, inputs: LatentInputs, reward: LatentRM | None = None
    ) -> LatentOutputs:
        """The latent phase by this engine's rung; nothing here waits for the device once a shape is known.

        Args:
            settings, inputs: from `inputs`, the settings perhaps with `keep` and `candidates`.
            reward: the LatentRM whose prompts `inputs` holds.

        Raises:
            ValueError: for a `keep` or `candidates` that is not allowed.
        """
        check_keep(settings.keep, settings.candidates, settings.steps, reward)
        if self.rung == "graph":
            return run_graph(
                self._generator, None if reward is None else self._scorer(reward), settings, inputs
            )
        model = self.model
        packed = pack(model.body, weights=self.weights, lm_head=model.answer_head, head=self._head)
        packed_reward = None
        if reward is not None:
            score = (reward.head_weight, reward.head_bias)
            packed_reward = pack(reward.module.body, weights=self.weights, score=score)
        return run_rollout(self.rung, packed, packed_reward, settings, inputs)

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: PromptCache | None,
        reward: LatentRM | None = None,
        reward_cache: PromptCache | None = None,
    ) -> LatentRun:
        beam = checked_beam(request, reward, self.model)
        # Without randomness a question's trajectories share the first one's thoughts.
        shared = request.sampler.deterministic and request.trajectories > 1 and beam is None
        asked = replace(request, keys=request.keys[:, :1]) if shared else request
        settings, inputs = self.inputs(asked, cache, None if reward is None else reward_cache)
        kept = beam_widths(beam, request.trajectories, settings.steps)
        if beam is not None:
            if beam.lookahead or request.trace:
                raise ValueError(f"beam: {NO_STEPS}; give engine='modules'")
            settings = replace(
                settings,
                questions=settings.questions * beam.subtrees,
                keep=tuple(count // beam.subtrees for count, _ in kept),
                candidates=beam.candidates,
            )
        made = self.roll_out(settings, inputs, reward)
        if beam is not None:
            state = _State(
                inputs.prompts,
                made.key,
                made.value,
                made.ancestry,
                settings.read_positions,
                made.final_prompts,
                made.final_keys,
                inputs.seed,
            )
            lineage = row_of_question(made.lineage, request.trajectories, kept)
            return LatentRun(request, made.thoughts, state, made.step_scores, made.final_keys, lineage)
        thoughts, scores, ancestry, prompt_index = (
            made.thoughts,
            made.step_scores,
            made.ancestry,
            inputs.prompt_index,
        )
        keys = inputs.keys
        if shared:
            leader = _repeated(request.questions, request.trajectories, self.model.device)
            thoughts, scores = thoughts[leader], None if scores is None else scores[leader]
            ancestry, prompt_index = ancestry[leader], prompt_index[leader]
            keys = to_device(request.keys.reshape(-1).contiguous(), self.model.device)
        state = _State(
            inputs.prompts,
            made.key,
            made.value,
            ancestry,
            settings.read_positions,
            prompt_index,
            keys,
            inputs.seed,
        )
        return LatentRun(request, thoughts, state, scores)

    @torch.no_grad()
    def answer(
        self, run: LatentRun, rows: Tensor, *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0
    ) -> Answers:
        if max_tokens > self.max_answer_tokens:
            raise ValueError(
                f"max_tokens: got {max_tokens}; this engine was made for at most {self.max_answer_tokens}"
            )
        if top_p != 1.0:
            raise ValueError(f"top_p: got {top_p}; {NO_NUCLEUS}; take engine='modules'")
        state = run.state
        assert isinstance(state, _State)
        if len(rows) == 0 or max_tokens < 1:
            none = torch.zeros(len(rows))
            return Answers(rows, [[] for _ in range(len(rows))], none, none.bool())
        place = to_device(rows, self.model.device)
        decoded = decode(
            self.blocks,
            self.lm_head,
            AnswerInputs(
                run.thoughts[place, -1],
                state.keys[place],
                state.seed,
                state.prompt_index[place],
                state.prompts,
                state.key,
                state.value,
                state.ancestry[place],
                state.held,
            ),
            max_tokens=max_tokens,
            temperature=temperature,
            end=self.model.ids.end,
            eos=self.model.ids.eos,
        )
        tokens = [[token for token in row if token >= 0] for row in decoded.tokens.tolist()]
        return Answers(rows, tokens, decoded.logprobs, decoded.finished)

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        blocks, size = self.blocks, self.blocks.dtype.itemsize
        steps = model.family.latent_length
        # Pages of generator and LatentRM, in the graph's buffers and in the run; then those of the answers.
        positions = 4 * steps + 2 + steps + max_tokens
        if sampler.drops and sampler.scope == "prompt+latent":
            positions += 3 * prompt_length
        per_position = 2 * blocks.layers * blocks.kv_heads * blocks.head_dim * size
        return positions * per_position + (12 * size + 8 * steps) * blocks.hidden_size


def _repeated(questions: int, count: int, device: torch.device) -> Tensor:
    """int64 [questions * count]: the question of every row."""
    return torch.arange(questions, device=device).unsqueeze(1).expand(questions, count).reshape(-1)


def _tensors(head: ThoughtHead) -> list[Tensor | None]:
    return [head.weight, head.bias] + [t for stage in head.stages for t in (stage.weight, stage.bias)]


def _cast(head: ThoughtHead, blocks: CudaBlocks) -> ThoughtHead:
    stages = tuple(
        replace(stage, weight=blocks.cast(stage.weight), bias=blocks.cast(stage.bias))
        for stage in head.stages
    )
    return replace(head, stages=stages, weight=blocks.cast(head.weight), bias=blocks.cast(head.bias))
