"""What a family of latent reasoning models has to say about itself.

A family answers four questions: which tokens frame the latent phase, how the next thought is formed from the
last hidden state, when the phase ends, and how an answer is read. Engines know nothing else about a family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LatentIds:
    """Token ids that frame the latent phase; ``end`` is fed after the last thought."""

    start: int
    end: int
    eos: int
    pad: int


@dataclass(frozen=True)
class ThoughtHead:
    """How z_{t+1} is formed from the final-norm hidden state: linear parts, then what ``next_thought`` fuses.

    Attributes:
        linear: (rows, hidden) -> (rows, hidden); None feeds the hidden state itself (COCONUT).
        norm: "none", "layer" or "rms": applied by ``next_thought`` after ``linear``.
        weight, bias: (hidden,) parameters of the norm, or None.
        eps: of the norm.
        scale: factor on the normed vector, before noise is added.
    """

    linear: Callable[[Tensor], Tensor] | None = None
    norm: str = "none"
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    scale: float = 1.0


class Family(Protocol):
    """One short file per family implements this (``latent_ext/models/coconut.py`` is the example)."""

    @property
    def name(self) -> str:
        """What ``load(family=...)`` calls it."""

    @property
    def latent_length(self) -> int:
        """Number of thoughts T."""

    def prompt(self, question: str) -> str:
        """Text given to the tokenizer; it ends with the token whose pass yields the first thought."""

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        """Token ids looked up in the tokenizer, never taken from a config."""

    def thought_head(self, model: nn.Module) -> ThoughtHead:
        """How the next thought is formed."""

    def answer(self, text: str) -> str | None:
        """Canonical answer in the decoded answer text; None where there is none."""


def single_token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of ``token``, which the tokenizer must encode to exactly that one id."""
    encoded = tokenizer.encode(token, add_special_tokens=False)
    token_id = tokenizer.convert_tokens_to_ids(token)
    if len(encoded) != 1 or encoded[0] != token_id:
        raise ValueError(f"tokenizer: {token!r} encodes to {encoded}; it must be one added token")
    return int(encoded[0])


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """int64 (length,) ids of a prompt, with the tokenizer's default special tokens."""
    return torch.tensor(tokenizer(text)["input_ids"], dtype=torch.int64)
