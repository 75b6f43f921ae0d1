"""LatentTTS's scores as its code computes them: without position ids, so that pads to the left are counted.

The published script decodes whole sequences, pads them on the left to the longest of the batch and gives the LatentRM
a mask but no position ids. The mask hides the pads, and causality the answer; what remains is that a sequence's
positions start at its number of pads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_ext.rewards.latent_rm import LatentRM


@torch.no_grad()
def score_as_published(
    reward: LatentRM, prompt: Tensor, thoughts: Sequence[Tensor], answers: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Step scores of one question's trajectories as one left-padded batch.

    Args:
        reward: in eval mode.
        prompt: int64 (length,) ids.
        thoughts: per trajectory (steps, hidden).
        answers: per trajectory the answer's token ids, without the end-of-sequence token.

    Returns:
        Per trajectory float32 (steps,).

    Raises:
        ValueError: if the padded batch has more positions than the LatentRM.
    """
    # Prompt, thoughts, end token, answer.
    lengths = [
        len(prompt) + len(own) + 1 + len(answer) for own, answer in zip(thoughts, answers, strict=True)
    ]
    longest = max(lengths, default=0)
    if longest > reward.blocks.max_positions:
        raise ValueError(
            f"reward: has {reward.blocks.max_positions} positions; a padded batch of {longest} tokens is to be scored"
        )
    body = reward.module.body
    embed, weight = body.get_input_embeddings(), reward.head_weight
    scores = []
    for own, length in zip(thoughts, lengths, strict=True):
        embedded = embed(prompt.to(weight.device))
        inputs = torch.cat([embedded, own.to(weight.device, weight.dtype)]).unsqueeze(0)
        pads = longest - length
        positions = torch.arange(pads, pads + inputs.shape[1], device=weight.device).unsqueeze(0)
        hidden = body(inputs_embeds=inputs, position_ids=positions, use_cache=False).last_hidden_state
        scores.append(reward.module.score(hidden[0, len(prompt) :]).float().cpu())
    return scores
