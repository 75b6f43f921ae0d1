"""What LatentTTS computes without sampling, re-read from the start for every position, by stock modules alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latent_ext.ops.tolerances import tolerance


@dataclass
class StockRun:
    """Ids after the prompt, the thoughts [T, hidden], and how many of the ids no rounding can change."""

    tokens: list[int]
    thoughts: Tensor
    decided: int


@torch.no_grad()
def stock_generate(
    model: nn.Module, prompt: Tensor, *, latent: int, end: int, eos: int, steps: int, max_new_tokens: int
) -> StockRun:
    """prompt is int64 [length]; float64 throughout; a `projector` of the model forms thoughts."""
    exact = copy.deepcopy(model).double()
    embed = exact.get_input_embeddings()
    inputs = embed(prompt)
    thoughts = []
    for _ in range(steps):
        hidden = exact(inputs_embeds=inputs.unsqueeze(0), output_hidden_states=True).hidden_states[-1][:, -1]
        hidden = exact.projector(hidden) if hasattr(exact, "projector") else hidden
        thoughts.append(hidden[0])
        inputs = torch.cat([inputs, hidden])
    written, decided = [latent] * steps + [end], 0
    while len(written) < max_new_tokens:
        inputs = torch.cat([inputs, embed(torch.tensor([written[-1]]))])
        best = exact(inputs_embeds=inputs.unsqueeze(0)).logits[0, -1].topk(2)
        if decided == 0 and float(best.values.diff().abs()) <= tolerance("logit_gap", torch.float32).atol:
            decided = len(written)
        written.append(int(best.indices[0]))
        if written[-1] == eos:
            break
    return StockRun(written, torch.stack(thoughts).float(), decided or len(written))
