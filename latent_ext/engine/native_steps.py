"""engine="native" thought by thought: a beam search that looks ahead or keeps a trace, and thoughts that are given.

`latent_rollout` forms its thoughts itself, prunes inside one call and tells of the survivors alone. Here each thought is
a call of its own, and the LatentRM reads through the same op: a packed body whose "thought" is its final-norm hidden
state. What is drawn and read is the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine.base import Beam, LatentRequest, LatentRun, SearchStep
from latent_ext.engine.beam import Branching, beam_widths, best_of_groups, row_of_question
from latent_ext.models.packed import PackedModel
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

if TYPE_CHECKING:
    from latent_ext.engine.native import NativeEngine


@dataclass
class _Reader:
    """A packed body, and what its rows have read behind their prompts.

    Attributes:
        prompts: `key`, `value` and `lengths` as the engine has read them.
        prompt_index: int64 [rows].
        key, value: [layers, slots, kv_heads, places, head_dim].
        ancestry: int64 [rows, places].
        held: places that are read.
    """

    packed: PackedModel
    prompts: Any
    prompt_index: Tensor
    key: Tensor
    value: Tensor
    ancestry: Tensor
    seed: Tensor
    held: int = 0

    @classmethod
    def of(
        cls, packed: PackedModel, prompts: Any, prompt_index: Tensor, seed: Tensor, slots: int, places: int
    ) -> _Reader:
        key, value = packed.new_cache(slots, places), packed.new_cache(slots, places)
        ancestry = torch.arange(len(prompt_index)).unsqueeze(1).expand(-1, places).contiguous()
        return cls(packed, prompts, prompt_index, key, value, ancestry, seed)

    def think(
        self, first: Tensor, keys: Tensor, sampler: Sampler, steps: int = 1, *, is_hidden: bool = False
    ) -> Tensor:
        """Reads inputs [rows, hidden] (or takes hidden states as they are): thoughts [rows, steps, hidden]."""
        rows = len(keys)
        thoughts = torch.empty(rows, steps, first.shape[1])
        dropout, noise = sampler.dropout, sampler.noise
        ops.latent_rollout(
            self.packed.data,
            self.packed.position_embedding,
            first,
            is_hidden,
            keys,
            self.seed,
            self.prompt_index,
            self.prompts.lengths,
            self.prompts.key,
            self.prompts.value,
            self.key,
            self.value,
            self.ancestry,
            self.held,
            p=dropout.p if dropout else 0.0,
            per_trajectory=bool(dropout and dropout.per == "trajectory"),
            embedding=bool(dropout and dropout.sites == "residual+embedding"),
            svp=sampler.svp,
            sigma=noise.sigma if noise else 0.0,
            relative=bool(noise and noise.relative),
            thoughts=thoughts,
            lineage=torch.empty(rows, steps, dtype=torch.int64),
            final_keys=torch.empty(rows, dtype=torch.int64),
            final_prompts=torch.empty(rows, dtype=torch.int64),
        )
        self.held += steps - is_hidden
        return thoughts

    def branch(self, parents: Tensor) -> None:
        """Goes on with rows that continue `parents`, int64 [rows]; row r writes to slot r from here on."""
        self.prompt_index, self.ancestry = self.prompt_index[parents], self.ancestry[parents].contiguous()

    def aside(self) -> _Reader:
        """The same rows, to read on without being remembered: places behind `held` are overwritten later."""
        shared = (self.packed, self.prompts, self.prompt_index, self.key, self.value)
        return _Reader(*shared, self.ancestry.clone(), self.seed, self.held)


def search(
    engine: NativeEngine, request: LatentRequest, beam: Beam, cache: Any, reward: LatentRM, reward_cache: Any
) -> LatentRun:
    """What `NativeEngine.sample` does with ``request.beam``; also with a lookahead, and with a trace.

    Args:
        beam: that of the request, checked.
        cache, reward_cache: from the engine's `read_prompts` and `read_reward_prompts`.
    """
    from latent_ext.engine.native import _State

    width, steps, questions = request.trajectories, engine.model.family.latent_length, request.questions
    keys = request.keys.reshape(-1).contiguous()
    question = torch.arange(questions).repeat_interleave(width)
    seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64)
    cache, prompt_index, first = engine.start(request, cache, question, keys, seed)
    is_hidden = cache.last_hidden is not None
    widths = beam_widths(beam, width, steps)
    slots = questions * max(width, *(rows for _, rows in widths))
    # The last prompt token where it is still to be read, and all thoughts but the last.
    reader = _Reader.of(engine.packed, cache, prompt_index, seed, slots, max(steps - is_hidden, 1))
    judge = _Reader.of(engine.packed_reward(reward), reward_cache, question, seed, slots, steps)
    head = reward.head_weight.float(), reward.head_bias.float()

    rows = len(keys)
    thoughts, scores = torch.empty(rows, steps, first.shape[1]), torch.zeros(rows, steps)
    lineage = torch.arange(rows).unsqueeze(1).repeat(1, steps)
    total, parents, before = torch.zeros(rows), torch.arange(rows), width
    trace = []
    for t in range(steps):
        read = first if t == 0 else thoughts[:, t - 1].contiguous()
        thought = reader.think(read, keys, request.sampler, is_hidden=is_hidden and t == 0)[:, 0].contiguous()
        thoughts[:, t] = thought
        scores[:, t], total = _score(judge, thought, keys, head, total)
        ranks, ahead = total, min(beam.lookahead, steps - 1 - t)
        if ahead:
            judging = judge.aside()
            for further in reader.aside().think(thought, keys, Sampler(), ahead).unbind(1):
                _, ranks = _score(judging, further.contiguous(), keys, head, ranks)
        keep, after = widths[t]
        best = best_of_groups(ranks, questions * beam.subtrees, keep // beam.subtrees)
        trace.append(SearchStep.of(keys, parents % before, scores[:, t], ranks, best, questions))
        before = len(keys) // questions
        branch = Branching.after(best, keys, t + 1, after // keep)
        keys, parents = branch.keys, branch.parents
        reader.branch(parents)
        judge.branch(parents)
        thoughts, scores, total, lineage = (
            thoughts[parents],
            scores[parents],
            total[parents],
            lineage[parents],
        )
        lineage[:, t + 1 :] = torch.arange(len(parents)).unsqueeze(1)

    suffix_len = torch.full((len(keys),), reader.held)
    state = _State(
        cache, reader.key, reader.value, reader.ancestry, suffix_len, reader.prompt_index, keys, seed
    )
    run = LatentRun(request, thoughts, state, scores, keys, row_of_question(lineage, width, widths))
    run.search = trace if request.trace else None
    return run


def scores_of(engine: NativeEngine, thoughts: Tensor, reward: LatentRM, reward_cache: Any) -> Tensor:
    """Step scores, float32 [rows, T], of thoughts that are given: the bits that `NativeEngine.sample` has for them.

    Args:
        thoughts: float32 [rows, T, hidden]; rows of a question are neighbours, the same number for each.
        reward_cache: from the engine's `read_reward_prompts`.
    """
    rows, steps, _ = thoughts.shape
    questions = len(reward_cache.lengths)
    question = torch.arange(questions).repeat_interleave(rows // questions)
    # The LatentRM draws nothing: keys and seed are not looked at.
    keys, seed = torch.zeros(rows, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    judge = _Reader.of(engine.packed_reward(reward), reward_cache, question, seed, rows, steps)
    head = reward.head_weight.float(), reward.head_bias.float()
    scores, total = torch.empty(rows, steps), torch.zeros(rows)
    for t in range(steps):
        scores[:, t], total = _score(judge, thoughts[:, t].contiguous(), keys, head, total)
    return scores


def hidden_behind(packed: PackedModel, prompts: Any, inputs: Tensor) -> Tensor:
    """Final-norm hidden states, float32 [rows, places, hidden], of inputs that all rows read behind one prompt.

    Args:
        packed: a LatentRM's body, whose "thoughts" are its hidden states.
        prompts: of one question, as the engine reads a LatentRM's prompts.
        inputs: float32 [rows, places, hidden].
    """
    rows, places, _ = inputs.shape
    keys, seed = torch.zeros(rows, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    reader = _Reader.of(packed, prompts, keys, seed, rows, places)
    return torch.stack(
        [reader.think(inputs[:, place].contiguous(), keys, Sampler())[:, 0] for place in range(places)], dim=1
    )


def reread(engine: NativeEngine, run: LatentRun, rows: Tensor) -> LatentRun:
    """What `NativeEngine.reread` does with a run that it has checked."""
    from latent_ext.engine.native import _State

    request, state, steps = run.request, run.state, run.thoughts.shape[1]
    assert isinstance(state, _State)
    questions, of_row = (rows // run.trajectories).unique(return_inverse=True)
    asked = [request.prompts[b] for b in questions.tolist()]
    prompts, prompt_index = state.prompts, questions
    if request.sampler.own_prompts:
        whole = engine.read_prompts(asked, Sampler())
        assert whole is not None
        prompts, prompt_index = whole, torch.arange(len(asked))
    # The last prompt token where the prompts were read without it, and all thoughts but the last.
    reader = _Reader.of(engine.packed, prompts, prompt_index, state.seed, len(rows), max(steps, 1))
    if prompts.last_hidden is None:
        # Clean, it is the same for all trajectories of a question: they find it through the ancestry.
        last = engine.packed.token_embedding[torch.stack([prompt[-1] for prompt in asked])]
        reader.think(last, questions, Sampler())
    reader.branch(of_row)
    for t in range(steps - 1):
        reader.think(run.thoughts[rows, t], state.keys[rows], Sampler())
    prompt_index, ancestry = state.prompt_index.clone(), reader.ancestry.new_zeros(run.rows, max(steps, 1))
    prompt_index[rows], ancestry[rows] = reader.prompt_index, reader.ancestry
    held = torch.full((run.rows,), reader.held)
    read = _State(prompts, reader.key, reader.value, ancestry, held, prompt_index, state.keys, state.seed)
    return replace(run, state=read)


def _score(
    judge: _Reader, thought: Tensor, keys: Tensor, head: tuple[Tensor, Tensor], total: Tensor
) -> tuple[Tensor, Tensor]:
    """Step score and running sum, [rows] both, of thoughts [rows, hidden]."""
    hidden = judge.think(thought, keys, Sampler())[:, 0].contiguous()
    one_group = torch.tensor([0, len(keys)])
    step_score, total, _ = ops.score_and_prune(hidden, *head, total, one_group, keep=0)
    return step_score, total
