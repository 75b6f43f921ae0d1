"""LatentTTS's ``ColarLlama`` in its smallest form, and what it computes when everything is read again at every step."""

from __future__ import annotations

import copy

import torch
from random_models import random_llama_model
from stock_loop import StockRun
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from latent_ext.ops.tolerances import tolerance

LATENT, SEPARATOR, EOS, STD = 40, 41, 0, 0.12


class LatentHead(nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, inner), nn.LayerNorm(inner)
        )
        self.mean = nn.Linear(inner, size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.mean(self.fc(hidden))


class ColarLlama(LlamaForCausalLM):
    """As published it reads embeddings alone, and appends the next thought to the hidden states."""

    def __init__(self, config) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config)
        self.lt_head = LatentHead(config.hidden_size, config.latent_intermediate_size)
        self.post_init()

    def forward(self, input_ids=None, **kwargs):  # type: ignore[no-untyped-def]
        assert input_ids is None
        output = super().forward(**kwargs)
        if output.hidden_states is not None:
            thought = self.lt_head(output.hidden_states[-1]) * self.config.latent_embedding_std
            output.hidden_states = (*output.hidden_states, thought)
        return output


def live_colar(generator: torch.Generator) -> ColarLlama:
    """In eval mode, with the config fields that LatentTTS's scripts set; its rows stop after various thoughts."""
    config = copy.deepcopy(random_llama_model(generator).hf.config)
    config.update(
        {
            "latent_id": LATENT, "latent_start_id": -1, "latent_end_id": SEPARATOR, "eos_token_id": EOS,
            "pad_token_id": EOS, "latent_intermediate_size": config.hidden_size + 3, "latent_embedding_std": STD,
            "tie_word_embeddings": False,
        }
    )  # fmt: skip
    model = ColarLlama(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator) * 0.2
            value.copy_(1.0 + noise if "norm" in name else noise)
        # Rows stop, and answers end, often enough to be seen.
        model.lm_head.weight[[SEPARATOR, EOS]] *= 4.0
    return model.eval()


def colar_prompts(generator: torch.Generator) -> list[Tensor]:
    """int64 [length] each, of which the third one has a separator inside."""
    drawn = [torch.randint(1, 40, (length,), generator=generator) for length in (9, 4, 7, 12, 3, 6, 8, 5)]
    drawn[2][3] = SEPARATOR
    return [torch.cat([ids, torch.tensor([SEPARATOR])]) for ids in drawn]


@torch.no_grad()
def stock_colar(model: ColarLlama, prompt: Tensor, *, most: int, max_new_tokens: int) -> StockRun:
    """float64 throughout; the separator is appended after the last thought, whether it was chosen or not."""
    exact = copy.deepcopy(model).double()
    embed, gap = exact.get_input_embeddings(), tolerance("logit_gap", torch.float32).atol
    inputs, written, thoughts = embed(prompt), [], []
    decided: int | None = None
    thinking, ended = True, False
    while len(written) < max_new_tokens and not ended:
        output = exact(inputs_embeds=inputs.unsqueeze(0), output_hidden_states=True)
        best = output.logits[0, -1].topk(2)
        token = int(best.indices[0])
        capped = thinking and len(thoughts) == most
        if decided is None and not capped and float(best.values.diff().abs()) <= gap:
            decided = len(written)
        if capped or (thinking and token == SEPARATOR):
            thinking, token = False, SEPARATOR
        if thinking:
            thoughts.append(output.hidden_states[-1][0, -1])
            written.append(LATENT)
            inputs = torch.cat([inputs, thoughts[-1].unsqueeze(0)])
            continue
        written.append(token)
        ended = token == EOS
        inputs = torch.cat([inputs, embed(torch.tensor([token]))])
    stacked = torch.stack(thoughts).float() if thoughts else torch.zeros(0, model.config.hidden_size)
    return StockRun(written, stacked, len(written) if decided is None else decided)
