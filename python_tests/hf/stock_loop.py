"""What LatentTTS computes without sampling, re-read from the start for every position, by stock modules alone.

Runs on any transformers release: it knows no cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def stock_generate(
    model: nn.Module, prompt: Tensor, *, latent: int, end: int, eos: int, steps: int, max_new_tokens: int
) -> tuple[list[int], Tensor]:
    """Generated ids after `prompt` (int64 [length]) and the thoughts [steps, hidden]."""
    embed = model.get_input_embeddings()
    inputs = embed(prompt)
    thoughts = []
    for _ in range(steps):
        read = model(inputs_embeds=inputs.unsqueeze(0), output_hidden_states=True)
        hidden = read.hidden_states[-1][:, -1]
        # LatentTTS's CODI class appends the projected state itself; a stock class knows nothing of it.
        if hasattr(model, "projector") and not hasattr(model, "projects"):
            hidden = model.projector(hidden)
        thoughts.append(hidden[0])
        inputs = torch.cat([inputs, hidden])
    written = [latent] * steps + [end]
    while len(written) < max_new_tokens:
        inputs = torch.cat([inputs, embed(torch.tensor([written[-1]]))])
        token = int(model(inputs_embeds=inputs.unsqueeze(0)).logits[0, -1].argmax())
        written.append(token)
        if token == eos:
            break
    return written, torch.stack(thoughts)
