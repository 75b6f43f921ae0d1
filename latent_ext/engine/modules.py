"""engine="modules": Hugging Face's linears, fused ops between, prompts read once, no LM head for thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine import stopping
from latent_ext.engine.base import Answers, LatentRequest, LatentRun, beyond_counts, weights_name
from latent_ext.engine.beam import beam_widths, checked_beam, row_of_question
from latent_ext.engine.beam_scores import BeamScores
from latent_ext.engine.decoder import Pages, Prompts, move_pages, open_pages, read_prompts, step
from latent_ext.engine.replay import check_replay
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.engine.visible_pads import read_padded
from latent_ext.models.family import ThoughtHead, apply_stages, head_outputs
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.arguments import to_signed
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

# Answer tokens for which places are taken at a time.
_ANSWER_BLOCK = 16


@dataclass
class _SharedPrompts:
    """Prompts read per question, without the last token where dropout acts on its pass."""

    cache: Prompts | None
    last_hidden: Tensor | None

    def select(self, questions: Tensor) -> _SharedPrompts:
        """The same of some of the prompts, int64 [questions]."""
        cache, last = self.cache, self.last_hidden
        return _SharedPrompts(
            None if cache is None else cache.select(questions),
            None if last is None else last[questions.to(last.device)],
        )


@dataclass
class _State:
    prompts: Prompts
    pages: Pages
    last_thought: Tensor | None  # [rows, hidden], not yet read; None where rows stop by themselves
    keys: Tensor  # [rows]
    seed: Tensor  # [1]
    stopped: stopping.Stopped | None = None


class ModulesEngine:
    """Runs a GPT-2 or Llama model through its own modules and the ops of `latent_ext.ops`."""

    name = "modules"

    def __init__(self, model: LatentModel, max_answer_tokens: int) -> None:
        self.model = model
        self.blocks = model.blocks
        self.head = model.feedback
        self.semantics = model.semantics
        self.answer_head = model.answer_head
        self.max_answer_tokens = max_answer_tokens
        self.weights = weights_name(model.dtype)

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[Tensor], sampler: Sampler) -> _SharedPrompts:
        if self.semantics.pads == "visible":
            read = read_padded(self.model, prompts, sampler)
            return _SharedPrompts(Prompts(read.keys, read.values, read.lengths), read.last_hidden)
        if sampler.own_prompts:
            return _SharedPrompts(None, None)
        keys = torch.zeros(len(prompts), dtype=torch.int64, device=self.model.device)
        clean = RowDropout.clean(torch.zeros_like(keys[:1]), keys)
        if sampler.acts_in_body:
            cache, _ = read_prompts(self.blocks, [prompt[:-1] for prompt in prompts], clean, self.model.dtype)
            return _SharedPrompts(cache, None)
        cache, hidden = read_prompts(self.blocks, prompts, clean, self.model.dtype)
        return _SharedPrompts(cache, hidden)

    @torch.no_grad()
    def sample(
        self,
        request: LatentRequest,
        cache: _SharedPrompts,
        reward: LatentRM | None = None,
        reward_cache: Prompts | None = None,
    ) -> LatentRun:
        sampler, device = request.sampler, self.model.device
        beam = checked_beam(request, reward, self.model)
        count = request.trajectories
        steps = self.model.family.latent_length
        keys = request.keys.reshape(-1).to(device)
        seed = torch.tensor([to_signed(request.seed)], dtype=torch.int64, device=device)
        question = torch.arange(request.questions, device=device).repeat_interleave(count)
        dropout = RowDropout.of(sampler, seed, keys)
        # The last prompt token and all thoughts but the last, which the answer phase reads.
        room = 1 + steps
        # Without randomness a question's trajectories share the first one's thoughts through the ancestry.
        shared = sampler.deterministic and beam is None
        leaders = torch.arange(0, len(keys), max(count, 1), device=device) if shared else None

        hidden: Tensor | None
        if cache.cache is None:
            prompts, hidden = read_prompts(
                self.blocks, [request.prompts[b] for b in question.tolist()], dropout, self.model.dtype
            )
            question = torch.arange(len(keys), device=device)
        else:
            prompts = cache.cache
            hidden = None if cache.last_hidden is None else cache.last_hidden[question]
        widths = beam_widths(beam, count, steps)
        slots = request.questions * max([count, *(width for _, width in widths)])
        pages = open_pages(self.blocks, question, room, self.model.dtype, slots=slots)
        rows = pages if leaders is None else pages.select(leaders)
        row_keys = keys if leaders is None else keys[leaders]
        row_dropout = RowDropout.of(sampler, seed, row_keys)
        if hidden is None:
            start = torch.stack([request.prompts[b][-1] for b in question.tolist()])
            hidden = step(self.blocks, self.blocks.token_embedding(start), prompts, rows, row_dropout)
        elif leaders is not None:
            hidden = hidden[leaders]

        stopped = None
        if self.semantics.stop != "fixed":
            thoughts, stopped = stopping.think(self, request, prompts, rows, hidden, row_keys, seed)
            if leaders is not None:
                of_leader = torch.arange(len(leaders), device=device).repeat_interleave(count)
                pages.ancestry[:, :steps] = leaders[of_leader].unsqueeze(1)
                pages.lengths = rows.lengths[of_leader]
                thoughts, stopped = thoughts[of_leader], stopped.select(of_leader)
            run = LatentRun(request, thoughts, _State(prompts, pages, None, keys, seed, stopped))
            run.counts = stopped.counts
            return self.scored(run, reward, reward_cache)

        thoughts = torch.empty(
            len(row_keys), steps, self.blocks.hidden_size, dtype=self.model.dtype, device=device
        )
        thought = torch.empty(len(row_keys), self.blocks.hidden_size, dtype=self.model.dtype, device=device)
        scoring = None
        if beam is not None:
            assert reward is not None
            assert reward_cache is not None
            scoring = BeamScores.of(reward, reward_cache, request, widths)
        for t in range(steps):
            if t > 0:
                hidden = step(self.blocks, thought, prompts, rows, row_dropout)
            self.next_thought(hidden, prompts, rows, row_keys, seed, sampler, t, thought, thoughts)
            if scoring is not None:
                ahead = self._look_ahead(t, beam, thought, prompts, rows, row_keys, seed)
                scoring.read(t, thought, ahead, row_keys)
                branch = scoring.branch(t, row_keys)
                row_keys, thought, thoughts = branch.keys, thought[branch.parents], thoughts[branch.parents]
                rows = rows.branch(branch.parents)
                row_dropout = RowDropout.of(sampler, seed, row_keys)
        if scoring is not None:
            state = _State(prompts, rows, thought, row_keys, seed)
            lineage = row_of_question(scoring.lineage, count, widths)
            run = LatentRun(request, thoughts, state, scoring.scores, row_keys, lineage)
            run.search = scoring.trace if request.trace else None
            return run
        if leaders is not None:
            of_leader = torch.arange(len(leaders), device=device).repeat_interleave(count)
            pages.ancestry[:, : max(steps - 1, 0)] = leaders[of_leader].unsqueeze(1)
            pages.lengths = rows.lengths[of_leader]
            thoughts, thought = thoughts[of_leader], thought[of_leader]
        # Without thoughts (T = 0) the end token follows the prompt.
        run = LatentRun(request, thoughts, _State(prompts, pages, thought if steps else None, keys, seed))
        return self.scored(run, reward, reward_cache)

    def _look_ahead(self, t, beam, thought, prompts, rows, keys, seed) -> list[Tensor]:  # type: ignore[no-untyped-def]
        """What would follow thought t [rows, hidden] without randomness: at most ``beam.lookahead`` thoughts.

        It is written behind what the rows have read, where their own next thought will be.
        """
        steps, found = self.model.family.latent_length, []
        pages = rows.select(torch.arange(len(keys), device=keys.device))
        for further in range(t + 1, min(t + beam.lookahead, steps - 1) + 1):
            hidden = step(self.blocks, thought, prompts, pages, RowDropout.clean(seed, keys))
            thought, written = (
                torch.empty_like(thought),
                thought.new_empty(len(keys), steps, thought.shape[1]),
            )
            self.next_thought(hidden, prompts, pages, keys, seed, Sampler(), further, thought, written)
            found.append(thought)
        return found

    def next_thought(self, hidden, prompts, pages, keys, seed, sampler, t, thought, thoughts):  # type: ignore[no-untyped-def]
        """Writes z_{t+1} into `thought` and `thoughts`; its position is the one that it will be read at."""
        head = self.head
        assert isinstance(head, ThoughtHead)
        mean, log_std = head_outputs(head, hidden, deviation=sampler.draws_from_head)
        ops.next_thought(
            mean,
            head.weight,
            head.bias,
            log_std,
            keys,
            prompts.lengths[pages.prompt_index] + pages.lengths,
            seed,
            eps=head.eps,
            norm=head.norm,
            scale=head.scale,
            sigma=sampler.sigma,
            relative=bool(sampler.noise and sampler.noise.relative),
            step=t,
            next_input=thought,
            thoughts=thoughts,
        )

    @torch.no_grad()
    def reread(self, run: LatentRun, rows: Tensor) -> LatentRun:
        check_replay(self.model)
        request, state, steps = run.request, run.state, run.thoughts.shape[1]
        assert isinstance(state, _State)
        sampler = request.sampler
        questions, of_row = (rows // run.trajectories).unique(return_inverse=True)
        asked = [request.prompts[b] for b in questions.tolist()]
        prompts, prompt_index = state.prompts, questions
        if sampler.own_prompts:
            whole = self.read_prompts(asked, Sampler()).cache
            assert whole is not None
            prompts, prompt_index = whole, torch.arange(len(asked), device=rows.device)
        # The last prompt token where the prompts were read without it, and all thoughts but the last.
        pages = open_pages(self.blocks, prompt_index, max(steps, 1), self.model.dtype, slots=len(rows))
        if sampler.acts_in_body and not sampler.own_prompts:
            # Clean, it is the same for all trajectories of a question: they find it through the ancestry.
            last = self.blocks.token_embedding(torch.stack([prompt[-1] for prompt in asked]))
            step(self.blocks, last, prompts, pages, RowDropout.clean(state.seed, questions))
        pages = pages.branch(of_row)
        clean = RowDropout.clean(state.seed, state.keys[rows])
        for t in range(steps - 1):
            step(self.blocks, run.thoughts[rows, t], prompts, pages, clean)
        return replace(run, state=replace(state, prompts=prompts, pages=pages.among(rows, run.rows)))

    @torch.no_grad()
    def read_reward_prompts(self, reward: LatentRM, prompts: Sequence[Tensor]) -> Prompts:
        keys = torch.zeros(len(prompts), dtype=torch.int64, device=self.model.device)
        clean = RowDropout.clean(torch.zeros_like(keys[:1]), keys)
        return read_prompts(reward.blocks, prompts, clean, reward.head_weight.dtype)[0]

    def scored(self, run: LatentRun, reward: LatentRM | None, cache: Prompts | None) -> LatentRun:
        """The run with its scores, where there is a reward."""
        if reward is not None:
            assert cache is not None
            run.scores = self._score(reward, run, cache)
            if run.counts is not None:
                run.scores[beyond_counts(run.counts, run.scores.shape[1])] = 0.0
        return run

    def _score(self, reward: LatentRM, run: LatentRun, cache: Prompts) -> Tensor:
        device = self.model.device
        count = run.request.trajectories
        steps = run.thoughts.shape[1]
        question = torch.arange(run.request.questions, device=device).repeat_interleave(count)
        offsets = torch.arange(run.request.questions + 1, device=device) * count
        keys = torch.zeros_like(question)
        clean = RowDropout.clean(torch.zeros(1, dtype=torch.int64, device=device), keys)
        pages = open_pages(reward.blocks, question, steps, reward.head_weight.dtype)
        total = torch.zeros(run.rows, device=device)
        scores = torch.empty(run.rows, steps, device=device)
        for t in range(steps):
            thought = run.thoughts[:, t].to(reward.head_weight.dtype)
            hidden = apply_stages(reward.stages, step(reward.blocks, thought, cache, pages, clean))
            scores[:, t], total, _ = ops.score_and_prune(
                hidden, reward.head_weight, reward.head_bias, total, offsets, keep=0
            )
        return scores

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
        device, ids = self.model.device, self.model.ids
        room = state.pages.ancestry.shape[1] + 1
        pages = move_pages(state.pages, rows, room + min(max_tokens, _ANSWER_BLOCK))
        keys = state.keys[rows]
        prompts, seed = state.prompts, state.seed
        sampler = run.request.sampler
        reading = RowDropout.of_answer if self.semantics.dropout_in_answer else RowDropout.clean_of
        if state.stopped is not None and self.semantics.cap == "reenter":
            return stopping.answer_reentering(self, run, rows, pages, max_tokens, temperature, top_p)
        if state.last_thought is not None:
            step(self.blocks, state.last_thought[rows], prompts, pages, reading(sampler, seed, keys))
        end = torch.full((len(rows),), ids.end, dtype=torch.int64, device=device)
        embedded = self.blocks.token_embedding(end)
        hidden = step(self.blocks, embedded, prompts, pages, reading(sampler, seed, keys))

        tokens: list[list[int]] = [[] for _ in range(len(rows))]
        logprobs = torch.zeros(len(rows), device=device)
        finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
        alive = torch.arange(len(rows), device=device)
        closing = ids.closing(device)
        for emitted in range(max_tokens):
            if len(alive) == 0:
                break
            token, logprob = self.draw_token(hidden, prompts, pages, keys, seed, temperature, top_p)
            logprobs[alive] += logprob
            ended = torch.isin(token, closing)
            finished[alive[ended]] = True
            for row, value in zip(alive[~ended].tolist(), token[~ended].tolist(), strict=True):
                tokens[row].append(value)
            keep = (~ended).nonzero().squeeze(1)
            alive, keys, token = alive[keep], keys[keep], token[keep]
            pages = pages.select(keep)
            if emitted + 1 < max_tokens and len(alive):
                if (emitted + 1) % _ANSWER_BLOCK == 0:
                    every = torch.arange(len(alive), device=device)
                    pages = move_pages(pages, every, room + min(max_tokens, emitted + 1 + _ANSWER_BLOCK))
                embedded = self.blocks.token_embedding(token)
                hidden = step(self.blocks, embedded, prompts, pages, reading(sampler, seed, keys))
        return Answers(rows, tokens, logprobs, finished)

    def draw_token(self, hidden, prompts, pages, keys, seed, temperature, top_p=1.0):  # type: ignore[no-untyped-def]
        """Token and log probability, both [rows]; a token is indexed by the position that it will be read at."""
        return ops.next_token(
            hidden,
            None,
            None,
            self.answer_head,
            keys,
            prompts.lengths[pages.prompt_index] + pages.lengths,
            seed,
            eps=0.0,
            norm="none",
            temperature=temperature,
            top_p=top_p,
        )

    def bytes_per_row(self, model: LatentModel, sampler: Sampler, prompt_length: int, max_tokens: int) -> int:
        blocks, size = self.blocks, model.dtype.itemsize
        positions = 2 * model.family.latent_length + 2 + max_tokens
        if sampler.own_prompts:
            positions += prompt_length
        per_position = 2 * blocks.layers * blocks.kv_heads * blocks.head_dim * size
        # Activations of one pass: residual, normed, q, k, v, context and the MLP's inner width.
        # Dense noise on W_V is kept for all passes of a trajectory; int64 words while it is drawn.
        values = blocks.kv_heads * blocks.head_dim * blocks.hidden_size if sampler.wv > 0.0 else 0
        return positions * per_position + 12 * blocks.hidden_size * size + values * (4 * blocks.layers + 64)
