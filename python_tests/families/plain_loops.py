"""What published codes compute, written out with stock modules in float64: no cache, everything read again each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from random_models import SEED
from torch import Tensor, nn

from latent_ext.ops import philox
from latent_ext.ops.sites import NOISE, TOKEN


@dataclass
class Plain:
    """A stock model and what its family does with a hidden state.

    Attributes:
        hf: in float64.
        form: hidden state (1, hidden) -> mean, and the logarithm of its deviation or None.
        scale: factor on the thought.
        end, eos: token ids.
        allowed: leading rows of the vocabulary that answers are drawn from; None for all.
    """

    hf: nn.Module
    form: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    end: int
    eos: int
    scale: float = 1.0
    allowed: int | None = None

    def embed(self, *tokens: int) -> Tensor:
        return self.hf.get_input_embeddings()(torch.tensor(tokens))

    @torch.no_grad()
    def read(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(length, hidden) -> last hidden state (1, hidden), last logits (allowed,)."""
        output = self.hf(inputs_embeds=inputs.unsqueeze(0), output_hidden_states=True)
        return output.hidden_states[-1][0, -1:], output.logits[0, -1, : self.allowed]

    @torch.no_grad()
    def thought(self, hidden: Tensor, key: int, position: int, sigma: float, learned: bool) -> Tensor:
        """(1, hidden), with noise of `sigma`, or of `sigma` times the learned deviation."""
        mean, log_std = self.form(hidden)
        noise = 0.0
        if sigma > 0.0:
            noise = (
                sigma * philox.normals(SEED, torch.tensor([key]), position, NOISE, hidden.shape[1]).double()
            )
        if learned:
            return self.scale * (mean + log_std.exp() * noise)
        return self.scale * mean + noise


def answer(plain: Plain, inputs: Tensor, most: int) -> tuple[list[int], bool]:
    tokens: list[int] = []
    for _ in range(most):
        token = int(plain.read(inputs)[1].argmax())
        if token == plain.eos:
            return tokens, True
        tokens.append(token)
        inputs = torch.cat([inputs, plain.embed(token)])
    return tokens, False


def fixed(
    plain: Plain, prompt: Tensor, steps: int, most: int, key: int = 0, sigma: float = 0.0
) -> tuple[Tensor, list[int], bool]:
    """Thoughts (steps, hidden), answer tokens, whether the answer ended: COCONUT and CODI."""
    inputs = plain.embed(*prompt.tolist())
    for _ in range(steps):
        hidden, _ = plain.read(inputs)
        inputs = torch.cat([inputs, plain.thought(hidden, key, len(inputs), sigma, learned=False)])
    thoughts = inputs[len(prompt) :]
    return thoughts, *answer(plain, torch.cat([inputs, plain.embed(plain.end)]), most)


def token_of(logits: Tensor, key: int, position: int, temperature: float) -> int:
    if temperature > 0.0:
        drawn = philox.gumbels(SEED, torch.tensor([key]), position, TOKEN, len(logits))[0]
        logits = logits / temperature + drawn
    return int(logits.argmax())


def stopping(
    plain: Plain, prompt: Tensor, most_thoughts: int, most: int, *, least: int, key: int = 0,
    sigma: float = 0.0, learned: bool = False, stop_temperature: float = 0.0,
) -> tuple[Tensor, list[int], bool]:  # fmt: skip
    """Thoughts, answer, whether it ended: CoLaR, the separator forced behind the last thought."""
    inputs = plain.embed(*prompt.tolist())
    thoughts: list[Tensor] = []
    while len(thoughts) < most_thoughts:
        hidden, logits = plain.read(inputs)
        drawn = token_of(logits, key, len(inputs), stop_temperature)
        if len(thoughts) >= least and drawn == plain.end:
            break
        thoughts.append(plain.thought(hidden, key, len(inputs), sigma, learned))
        inputs = torch.cat([inputs, thoughts[-1]])
    stacked = torch.cat(thoughts) if thoughts else inputs[:0]
    return stacked, *answer(plain, torch.cat([inputs, plain.embed(plain.end)]), most)


def reentering(plain: Plain, prompt: Tensor, most_thoughts: int, most: int) -> tuple[Tensor, list[int], bool]:
    """LatentTTS's CoLaR, bug included: one rule for every step; `most` counts steps behind the first run of thoughts.

    A separator that ends the first run of thoughts is none of the answer's tokens and takes no step.
    """
    inputs = plain.embed(*prompt.tolist())
    ids = prompt.tolist()
    thoughts: list[Tensor] = []
    tokens: list[int] = []
    latest, steps, first_run = 0, 0, True
    while True:
        hidden, logits = plain.read(inputs)
        token = int(logits.argmax())
        thinks = ids.count(plain.end) <= 1 and latest < most_thoughts and token != plain.end
        if not thinks and first_run:
            first_run = False
            if ids.count(plain.end) <= 1 and latest < most_thoughts:
                ids, latest = [*ids, token], 0
                inputs = torch.cat([inputs, plain.embed(token)])
                continue
        if not first_run:
            if steps == most:
                break
            steps += 1
        if thinks:
            fed = plain.thought(hidden, 0, len(inputs), 0.0, learned=False)
            if first_run:
                thoughts.append(fed)
            latest += 1
            inputs = torch.cat([inputs, fed])
            continue
        latest = 0
        if token == plain.eos:
            return torch.cat(thoughts) if thoughts else inputs[:0], tokens, True
        tokens.append(token)
        ids.append(token)
        inputs = torch.cat([inputs, plain.embed(token)])
    return torch.cat(thoughts) if thoughts else inputs[:0], tokens, False
