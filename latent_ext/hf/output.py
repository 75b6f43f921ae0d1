"""What a latent generation gives back, and the token sequences in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from latent_ext.hf.prompts import LatentTokens
from latent_ext.search.result import Trajectory


@dataclass
class LatentGenerateOutput(ModelOutput):
    """Output of a latent generation; rows of a question are neighbours.

    Attributes:
        sequences: int64 (rows, length), prompt as given, thoughts as the latent token, end token, answer, then padding.
        latent_thoughts: (rows, T, hidden), as they were fed to the model. Where rows stop by themselves (CoLaR), T is
            the number of thoughts of the row that has most, and 0 stands behind a row's last one; a row has as many as
            latent tokens stand between its prompt and its end token.
        reward_scores: float32 (rows, T), the score of every thought, padded in the same way; None without a reward.
        path_sequences: int64 (batch * num_paths, length), all paths where `sequences` holds a selection.
        selected_index: int64 (rows,), which path of its question each row is.
    """

    sequences: Tensor | None = None
    latent_thoughts: Tensor | None = None
    reward_scores: Tensor | None = None
    path_sequences: Tensor | None = None
    selected_index: Tensor | None = None


def write_sequences(
    input_ids: Tensor,
    trajectories: list[list[Trajectory]],
    tokens: LatentTokens,
    *,
    eos: int,
    pad: int,
) -> Tensor:
    """int64 (rows, length): what Hugging Face's ``generate`` would have written.

    Args:
        input_ids: int64 (batch, length).
        trajectories: of each row of the batch, each with its own number of thoughts; one without tokens ends with the
            end token.
        eos: closes an answer that ended by itself.
        pad: fills up.
    """
    written = []
    for listed in trajectories:
        for trajectory in listed:
            answer = list(trajectory.tokens or ())
            thoughts = [tokens.latent] * (trajectory.steps or 0)
            written.append([*thoughts, tokens.end, *answer, *([eos] if trajectory.finished else [])])
    longest = max((len(row) for row in written), default=0)
    filled = torch.tensor([row + [pad] * (longest - len(row)) for row in written], dtype=torch.int64)
    repeats = torch.tensor([len(listed) for listed in trajectories])
    prompts = input_ids.to("cpu", torch.int64).repeat_interleave(repeats, dim=0)
    return torch.cat([prompts, filled.reshape(len(prompts), longest)], dim=1).to(input_ids.device)
