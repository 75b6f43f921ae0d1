"""What a family of latent reasoning models has to say about itself.

A family answers five questions: which tokens frame the latent phase, how the next thought is formed, when the
phase ends, where randomness acts, and how an answer is read. Engines know nothing else about a family.
docs/your-own-family.md writes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from latent_ext.models.chat import Chat
from latent_ext.models.depth import DepthSteps
from latent_ext.models.thought_rule import ThoughtRule

# In place of an id: no token has this role in the family.
NO_TOKEN = -1


@dataclass(frozen=True)
class LatentIds:
    """Token ids that frame the latent phase; ``end`` is fed after the last thought.

    ``start`` and ``end`` may be `NO_TOKEN`; ``stops`` end an answer as ``eos`` does.
    """

    start: int
    end: int
    eos: int
    pad: int
    stops: tuple[int, ...] = ()

    def end_of_answer(self, token: int) -> bool:
        """Whether a drawn token ends the answer."""
        return token == self.eos or token in self.stops

    def closing(self, device: torch.device) -> Tensor:
        """int64 (1 + stops,), the tokens that end an answer."""
        return torch.tensor([self.eos, *self.stops], dtype=torch.int64, device=device)


@dataclass(frozen=True)
class HeadStage:
    """One step of a thought head, stated by its tensors so that a compiled engine can run it.

    Attributes:
        kind: "linear": ``x @ weight.T + bias``; "gelu": ``x * Phi(x)``, the exact form with erf; "layer":
            LayerNorm over the last axis.
        weight: (out, in) of a "linear", (width,) of a "layer" or None; None for "gelu".
        bias: (out,) or (width,), or None.
        eps: of a "layer".

    Raises:
        ValueError: for another kind, or tensors that do not belong to it.
    """

    kind: Literal["linear", "gelu", "layer"]
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "gelu", "layer"):
            raise ValueError(f"kind: got {self.kind!r}; allowed are 'linear', 'gelu', 'layer'")
        dims = None if self.weight is None else self.weight.dim()
        if dims not in {"linear": (2,), "gelu": (None,), "layer": (1, None)}[self.kind]:
            found = "none" if self.weight is None else f"shape {tuple(self.weight.shape)}"
            needed = {"linear": "a matrix (out, in)", "gelu": "none", "layer": "a vector (width,) or none"}
            raise ValueError(f"weight: got {found}; a {self.kind!r} stage takes {needed[self.kind]}")
        if self.bias is not None and (self.weight is None or self.bias.shape != self.weight.shape[:1]):
            raise ValueError(
                f"bias: got shape {tuple(self.bias.shape)}; a vector with the weight's number of rows is needed"
            )


@dataclass(frozen=True)
class ThoughtHead:
    """How z_{t+1} is formed from the final-norm hidden state: `stages`, then what ``next_thought`` fuses.

    Attributes:
        stages: applied in order, (rows, hidden) -> (rows, hidden); none feeds the hidden state itself (COCONUT).
        norm: "none", "layer" or "rms": applied by ``next_thought`` after the stages.
        weight, bias: (hidden,) parameters of the norm, or None.
        eps: of the norm.
        scale: factor on the normed vector, before noise is added.
        log_std: of a Gaussian head: reads what the last of the stages reads and gives the logarithm of the standard
            deviation, in units of the vector before `scale`. Sampler "head" draws with it.
    """

    stages: tuple[HeadStage, ...] = ()
    norm: str = "none"
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    scale: float = 1.0
    log_std: HeadStage | None = None

    @property
    def randomness(self) -> tuple[str, ...]:
        """Sampler parts that act."""
        of_body = ("dropout", "noise", "svp", "wv")
        return of_body if self.log_std is None else (*of_body, "head")


# How a next thought is formed: stated by tensors, which every engine runs; by a function, once per step; or by running
# the body again inside one token. Engines "modules" and "reference" run all three.
Feedback: TypeAlias = ThoughtHead | ThoughtRule | DepthSteps


def apply_stages(stages: tuple[HeadStage, ...], hidden: Tensor) -> Tensor:
    """The stages of a head in plain PyTorch, in the dtype of `hidden`.

    Args:
        hidden: (rows, hidden).

    Returns:
        (rows, width of the last stage); `hidden` itself where there are no stages.
    """
    for stage in stages:
        if stage.kind == "linear":
            assert stage.weight is not None
            hidden = functional.linear(hidden, stage.weight, stage.bias)
        elif stage.kind == "gelu":
            hidden = functional.gelu(hidden)
        else:
            hidden = functional.layer_norm(hidden, hidden.shape[-1:], stage.weight, stage.bias, stage.eps)
    return hidden


def head_outputs(head: ThoughtHead, hidden: Tensor, *, deviation: bool) -> tuple[Tensor, Tensor | None]:
    """What the stages make of hidden states (rows, hidden), and the logarithm of the deviation where asked for."""
    if not deviation:
        return apply_stages(head.stages, hidden), None
    assert head.log_std is not None
    trunk = apply_stages(head.stages[:-1], hidden)
    return apply_stages(head.stages[-1:], trunk), apply_stages((head.log_std,), trunk)


class Family(Protocol):
    """One short file per family implements this (``latent_ext/models/coconut.py`` is the example).

    A family may also have ``prompt_ids(tokenizer, question)``, int64 (length,), where the prompt is not just the
    text's tokens, and ``semantics`` (`latent_ext.models.semantics.Semantics`), where it does not behave plainly.
    """

    @property
    def name(self) -> str:
        """What ``load(family=...)`` calls it."""

    @property
    def latent_length(self) -> int:
        """Number of thoughts T, or the most where the phase may end sooner; depth steps per token of a `DepthSteps`."""

    def prompt(self, question: str) -> str | Chat:
        """Text given to the tokenizer, or messages; it ends with the token whose pass yields the first thought."""

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        """Token ids looked up in the tokenizer, never taken from a config."""

    def thought_head(self, model: nn.Module) -> Feedback:
        """How the next thought is formed, and where randomness acts."""

    def answer(self, text: str) -> str | None:
        """Canonical answer in the decoded answer text; None where there is none."""


def single_token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of ``token``, which the tokenizer must encode to exactly that one id."""
    encoded = tokenizer.encode(token, add_special_tokens=False)
    token_id = tokenizer.convert_tokens_to_ids(token)
    if len(encoded) != 1 or encoded[0] != token_id:
        raise ValueError(f"tokenizer: {token!r} encodes to {encoded}; it must be one added token")
    return int(encoded[0])


def needed_eos(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the end-of-sequence token, which an answer must have."""
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: has no eos token; an answer would never end")
    return int(tokenizer.eos_token_id)


def prompt_ids(family: Family, tokenizer: PreTrainedTokenizerBase, question: str) -> Tensor:
    """int64 (length,) ids of a question's prompt, by default with the tokenizer's own special tokens, or those of its
    chat template."""
    own = getattr(family, "prompt_ids", None)
    if own is not None:
        return own(tokenizer, question)
    prompt = family.prompt(question)
    if isinstance(prompt, Chat):
        return prompt.ids(tokenizer)
    return torch.tensor(tokenizer(prompt)["input_ids"], dtype=torch.int64)
