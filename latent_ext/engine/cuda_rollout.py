"""Rungs "persistent" and "stream": the latent phase through ``latent_ext.ops.latent_rollout`` on packed models."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine.cuda_latent import LatentInputs, LatentOutputs, LatentSettings
from latent_ext.models.packed import PackedModel


def run_rollout(
    rung: str,
    packed: PackedModel,
    packed_reward: PackedModel | None,
    settings: LatentSettings,
    inputs: LatentInputs,
) -> LatentOutputs:
    """A latent phase by one call of the op.

    Args:
        rung: "persistent" or "stream"; of no consequence on a CPU, which has one way of its own.
        packed, packed_reward: on the device of the inputs; the LatentRM's where `inputs` has its prompts.
        settings: of the phase.
        inputs: read where they are; caches in the dtype of ``packed.new_cache``.

    Returns:
        What the op wrote.
    """
    rows, device = len(inputs.keys), inputs.keys.device
    capacity = max(settings.rows_by_step(rows))
    room = max(1, settings.read_positions)
    reward = inputs.reward_prompts

    def integers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device=device)

    hidden = packed.token_embedding.shape[1]
    thoughts = torch.empty(capacity, settings.steps, hidden, device=device)
    step_scores = None if packed_reward is None else torch.empty(capacity, settings.steps, device=device)
    lineage, final_keys, final_prompts = (
        integers(capacity, settings.steps),
        integers(capacity),
        integers(capacity),
    )
    key, value = packed.new_cache(capacity, room), packed.new_cache(capacity, room)
    ancestry = torch.arange(capacity, device=device).unsqueeze(1).expand(capacity, room).contiguous()
    dropout, noise = settings.sampler.dropout, settings.sampler.noise
    ops.latent_rollout(
        packed.data,
        packed.position_embedding,
        inputs.first.float(),
        settings.first_is_hidden,
        inputs.keys,
        inputs.seed,
        inputs.prompt_index,
        inputs.prompts.lengths,
        inputs.prompts.key,
        inputs.prompts.value,
        key,
        value,
        ancestry,
        0,
        None if packed_reward is None else packed_reward.data,
        None if packed_reward is None else packed_reward.position_embedding,
        inputs.reward_prompt_index,
        None if reward is None else reward.lengths,
        None if reward is None else reward.key,
        None if reward is None else reward.value,
        p=dropout.p if dropout else 0.0,
        per_trajectory=bool(dropout and dropout.per == "trajectory"),
        embedding=bool(dropout and dropout.sites == "residual+embedding"),
        sigma=noise.sigma if noise else 0.0,
        relative=bool(noise and noise.relative),
        questions=settings.questions,
        keep=settings.keep,
        candidates=settings.candidates,
        thoughts=thoughts,
        step_scores=step_scores,
        lineage=lineage,
        final_keys=final_keys,
        final_prompts=final_prompts,
        model_header=packed.header,
        reward_header=None if packed_reward is None else packed_reward.header,
        rung=rung if device.type == "cuda" else "auto",
    )
    left = settings.rows_by_step(rows)[-1]
    return LatentOutputs(
        thoughts[:left],
        None if step_scores is None else step_scores[:left],
        lineage[:left],
        final_keys[:left],
        final_prompts[:left],
        key,
        value,
        ancestry[:left],
    )
