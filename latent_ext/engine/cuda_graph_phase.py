"""Rung "graph": the latent phase as a CUDA graph of fused ops and library products.

`latent_phase` is the phase itself, plain code over tensors that neither waits for the device nor looks at a value: on
the CPU it runs as it stands. Pruning selects indices: every step has its fixed number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine.cuda_blocks import CudaBlocks
from latent_ext.engine.cuda_capture import Capture, Turn
from latent_ext.engine.cuda_latent import LatentInputs, LatentOutputs, LatentSettings
from latent_ext.engine.cuda_prompts import PromptCache
from latent_ext.engine.decoder import Pages, Prompts, step
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.family import ThoughtHead, apply_stages


@dataclass(frozen=True)
class Generator:
    """The body that thinks, and how a thought is formed; `head` in the dtype of the blocks."""

    blocks: CudaBlocks
    head: ThoughtHead


@dataclass(frozen=True)
class Scorer:
    """The LatentRM's body and scalar head, (hidden,) and (1,), in the dtype of its blocks."""

    blocks: CudaBlocks
    weight: Tensor
    bias: Tensor


@dataclass
class _Rows:
    """What is known of every row; pruning selects from all of it alike."""

    keys: Tensor  # [rows]
    prompt_index: Tensor  # [rows]
    ancestry: Tensor  # [rows, positions]
    thoughts: Tensor  # [rows, steps, hidden]
    lineage: Tensor  # [rows, steps]
    step_scores: Tensor  # [rows, steps]
    total: Tensor  # [rows]
    reward_prompt_index: Tensor  # [rows]
    reward_ancestry: Tensor  # [rows, steps]

    def select(self, rows: Tensor) -> _Rows:
        return _Rows(**{name: values[rows] for name, values in self.__dict__.items()})

    def own_future(self, length: int, step: int) -> None:
        """Row r writes to slot r from suffix position `length` and from `step` on."""
        own = torch.arange(len(self.keys), device=self.keys.device).unsqueeze(1)
        self.ancestry[:, length:] = own
        self.reward_ancestry[:, step:] = own
        self.lineage[:, step:] = own


@dataclass(frozen=True)
class _Scratch:
    """Pages of both bodies, layer by layer: [slots, kv_heads, positions, head_dim]."""

    keys: list[Tensor]
    values: list[Tensor]
    reward_keys: list[Tensor]
    reward_values: list[Tensor]


def latent_phase(
    generator: Generator,
    scorer: Scorer | None,
    settings: LatentSettings,
    inputs: LatentInputs,
    scratch: _Scratch,
) -> _Rows:
    """All steps of all rows; the result's rows are those that pruning has left.

    The same steps, draws and choices as `latent_ext.ops.latent_rollout`.
    """
    blocks, steps = generator.blocks, settings.steps
    count, device = len(inputs.keys), inputs.keys.device
    prompts = inputs.prompts.layered()
    reward_prompts = None if inputs.reward_prompts is None else inputs.reward_prompts.layered()

    def integers(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=device)

    rows = _Rows(
        keys=inputs.keys,
        prompt_index=inputs.prompt_index,
        ancestry=integers(count, scratch.keys[0].shape[2]),
        thoughts=torch.zeros(count, steps, blocks.hidden_size, dtype=blocks.dtype, device=device),
        lineage=integers(count, steps),
        step_scores=torch.zeros(count, steps, device=device),
        total=torch.zeros(count, device=device),
        reward_prompt_index=inputs.prompt_index
        if inputs.reward_prompt_index is None
        else inputs.reward_prompt_index,
        reward_ancestry=integers(count, steps),
    )
    length = 0
    rows.own_future(length, 0)
    hidden = thought = inputs.first
    for t in range(steps):
        if t > 0 or not settings.first_is_hidden:
            dropout = RowDropout.of(settings.sampler, inputs.seed, rows.keys)
            pages = Pages(
                scratch.keys,
                scratch.values,
                rows.prompt_index,
                rows.ancestry,
                torch.full_like(rows.keys, length),
            )
            hidden = step(blocks, thought, prompts, pages, dropout)
            length += 1
        thought = _next_thought(generator.head, settings, rows, prompts, hidden, inputs.seed, length, t)
        if scorer is None:
            continue
        assert reward_prompts is not None
        survivors = _score(scorer, settings, rows, reward_prompts, scratch, thought, t)
        if survivors is None:
            continue
        children = torch.arange(settings.candidates if t + 1 < steps else 1, device=device)
        kept = survivors.sort(dim=1).values.reshape(-1)
        number = torch.full((), t + 1, dtype=torch.int64, device=device)
        keys = ops.child_key(rows.keys[kept].unsqueeze(1), number, children).reshape(-1)
        rows = rows.select(kept.unsqueeze(1).expand(-1, len(children)).reshape(-1))
        rows.keys = keys
        rows.own_future(length, t + 1)
        thought = rows.thoughts[:, t].contiguous()
    return rows


def _next_thought(
    head: ThoughtHead,
    settings: LatentSettings,
    rows: _Rows,
    prompts: Prompts,
    hidden: Tensor,
    seed: Tensor,
    length: int,
    t: int,
) -> Tensor:
    """Forms thought t of the rows, in `rows.thoughts` and as the next input, [rows, hidden]."""
    noise = settings.sampler.noise
    formed = apply_stages(head.stages, hidden)
    thought = torch.empty_like(formed)
    ops.next_thought(
        formed,
        head.weight,
        head.bias,
        None,
        rows.keys,
        prompts.lengths[rows.prompt_index] + length,
        seed,
        eps=head.eps,
        norm=head.norm,
        scale=head.scale,
        sigma=noise.sigma if noise else 0.0,
        relative=bool(noise and noise.relative),
        step=t,
        next_input=thought,
        thoughts=rows.thoughts,
    )
    return thought


def _score(
    scorer: Scorer,
    settings: LatentSettings,
    rows: _Rows,
    prompts: Prompts,
    scratch: _Scratch,
    thought: Tensor,
    t: int,
) -> Tensor | None:
    """Has the LatentRM read thought t; int64 [questions, keep] rows to go on with, or None where none are pruned."""
    pages = Pages(
        scratch.reward_keys,
        scratch.reward_values,
        rows.reward_prompt_index,
        rows.reward_ancestry,
        torch.full_like(rows.keys, t),
    )
    # A clean pass: seed and keys are asked for and not drawn from.
    clean = RowDropout.clean(rows.keys[:1], rows.keys)
    hidden = step(scorer.blocks, thought, prompts, pages, clean)
    width = len(rows.keys) // settings.questions
    offsets = torch.arange(settings.questions + 1, device=rows.keys.device) * width
    keep = min(width, settings.keep[t]) if settings.keep else 0
    rows.step_scores[:, t], rows.total, survivors = ops.score_and_prune(
        hidden, scorer.weight, scorer.bias, rows.total, offsets, keep
    )
    return survivors if keep else None


class _Shape:
    """Static buffers of one shape, and the graph of its latent phase."""

    def __init__(
        self, generator: Generator, scorer: Scorer | None, settings: LatentSettings, like: LatentInputs
    ) -> None:
        self.device = like.keys.device
        self.turn = Turn(self.device)
        self.inputs = LatentInputs(
            first=torch.empty_like(like.first),
            keys=torch.empty_like(like.keys),
            seed=torch.empty_like(like.seed),
            prompt_index=torch.empty_like(like.prompt_index),
            prompts=_same_shape(like.prompts),
            reward_prompt_index=None
            if like.reward_prompt_index is None
            else torch.empty_like(like.reward_prompt_index),
            reward_prompts=None if like.reward_prompts is None else _same_shape(like.reward_prompts),
        )
        counts = settings.rows_by_step(len(like.keys))
        capacity, self.rows = max(counts), counts[-1]
        key, value = _pages(generator.blocks, capacity, max(1, settings.read_positions))
        reward_key, reward_value = (
            _pages(scorer.blocks, capacity, settings.steps) if scorer else (key[:0], value[:0])
        )
        scratch = _Scratch(
            list(key.unbind(0)),
            list(value.unbind(0)),
            list(reward_key.unbind(0)),
            list(reward_value.unbind(0)),
        )
        hidden = generator.blocks.hidden_size
        integers = {"dtype": torch.int64, "device": self.device}
        self.outputs = LatentOutputs(
            thoughts=torch.empty(self.rows, settings.steps, hidden, device=self.device),
            step_scores=torch.empty(self.rows, settings.steps, device=self.device) if scorer else None,
            lineage=torch.empty(self.rows, settings.steps, **integers),  # type: ignore[call-overload]
            final_keys=torch.empty(self.rows, **integers),  # type: ignore[call-overload]
            final_prompts=torch.empty(self.rows, **integers),  # type: ignore[call-overload]
            key=key,
            value=value,
            ancestry=torch.empty(self.rows, key.shape[3], **integers),  # type: ignore[call-overload]
        )

        def run() -> None:
            rows = latent_phase(generator, scorer, settings, self.inputs, scratch)
            self.outputs.thoughts.copy_(rows.thoughts)
            self.outputs.lineage.copy_(rows.lineage)
            self.outputs.ancestry.copy_(rows.ancestry)
            self.outputs.final_keys.copy_(rows.keys)
            self.outputs.final_prompts.copy_(rows.prompt_index)
            if self.outputs.step_scores is not None:
                self.outputs.step_scores.copy_(rows.step_scores)

        self.run = Capture(run, self.device)

    def fill(self, given: LatentInputs) -> None:
        """Copies the tensors of a phase to where the graph reads them."""
        for name in ("first", "keys", "seed", "prompt_index", "reward_prompt_index"):
            into = getattr(self.inputs, name)
            if into is not None:
                into.copy_(getattr(given, name))
        for into, values in (
            (self.inputs.prompts, given.prompts),
            (self.inputs.reward_prompts, given.reward_prompts),
        ):
            if into is not None and values is not None:
                into.key.copy_(values.key)
                into.value.copy_(values.value)
                into.lengths.copy_(values.lengths)


def run_graph(
    generator: Generator, scorer: Scorer | None, settings: LatentSettings, inputs: LatentInputs
) -> LatentOutputs:
    """A latent phase by rung "graph"; the first call of a shape records, the later ones replay.

    Args:
        generator, scorer: the bodies; `scorer` where `inputs` has its prompts.
        settings: of the phase.
        inputs: copied to the graph's own buffers.

    Returns:
        Tensors of the caller's own: the next replay does not touch them.
    """
    key = ("latent", settings, scorer and scorer.blocks, len(inputs.keys), *inputs.prompts.key.shape)
    if inputs.reward_prompts is not None:
        key += tuple(inputs.reward_prompts.key.shape)
    shape: _Shape = generator.blocks.captured.take(key, lambda: _Shape(generator, scorer, settings, inputs))
    with shape.turn:
        shape.fill(inputs)
        shape.run()
        return shape.outputs.copy()


def _same_shape(cache: PromptCache) -> PromptCache:
    return PromptCache(**{name: torch.zeros_like(value) for name, value in vars(cache).items()})


def _pages(blocks: CudaBlocks, slots: int, positions: int) -> tuple[Tensor, Tensor]:
    shape = (blocks.layers, slots, blocks.kv_heads, positions, blocks.head_dim)
    key, value = (torch.zeros(shape, dtype=blocks.dtype, device=blocks.device) for _ in range(2))
    return key, value
