"""Families that think in soft tokens, on a body that was trained for text: Soft Thinking, and Latent-SFT / Latent-GRPO."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from latent_ext.models.chat import Chat
from latent_ext.models.family import NO_TOKEN, LatentIds
from latent_ext.models.soft_tokens import SoftTokens
from latent_ext.models.written_answers import boxed_number

_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
_CLOSING = "</think>"


@dataclass(frozen=True)
class SoftThinking:
    """Soft Thinking, training-free, on any chat model (Zhang et al., arXiv 2505.15778; eric-ai-lab/Soft-Thinking).

    Thinks from the first position of the assistant's turn until the last token of ``</think>`` is the heaviest.

    Attributes:
        latent_length: most thoughts; then the end token is fed.
        temperature, top_k, top_p, min_p, width: see `SoftTokens`; published defaults (its command line raises the width
            to 15).
        entropy, entropy_steps: the paper's Cold Stop, see `SoftTokens`.
    """

    latent_length: int = 512
    temperature: float = 0.6
    top_k: int | None = 30
    top_p: float = 0.95
    min_p: float = 0.001
    width: int = 10
    entropy: float = 0.01
    entropy_steps: int = 256
    name: str = "soft-thinking"

    def prompt(self, question: str) -> Chat:
        return Chat(f"{_INSTRUCTION}\n\n{question}")

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        return _ids(tokenizer, place=-1)

    def thought_head(self, model: nn.Module) -> SoftTokens:
        return SoftTokens(
            *_tables(model),
            width=self.width,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            entropy=self.entropy,
            entropy_steps=self.entropy_steps,
        )

    def answer(self, text: str) -> str | None:
        return boxed_number(text)


@dataclass(frozen=True)
class LatentGRPO:
    """Latent-SFT and Latent-GRPO checkpoints (arXiv 2510.15522, 2604.27998; DJC-GO-SOLO/Latent-GRPO).

    Thinks behind ``<think>``: softmax over the ten largest logits, until the first token of ``</think>`` is the
    heaviest.

    Attributes:
        latent_length: most thoughts; then the end token is fed.
        width: see `SoftTokens`.
        noise_top_p: see `SoftTokens`.
    """

    latent_length: int = 128
    width: int = 10
    noise_top_p: float = 0.95
    name: str = "latent-grpo"

    def prompt(self, question: str) -> Chat:
        return Chat(f"{_INSTRUCTION}\n{question}", opening="<think>")

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        return _ids(tokenizer, place=0)

    def thought_head(self, model: nn.Module) -> SoftTokens:
        return SoftTokens(
            *_tables(model),
            width=self.width,
            noise="choice",
            noise_top_p=self.noise_top_p,
            randomness=("dropout", "noise", "gumbel"),
        )

    def answer(self, text: str) -> str | None:
        return boxed_number(text)


def _tables(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Input and output embeddings, (vocabulary, hidden) each."""
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight  # type: ignore[operator]


def _ids(tokenizer: PreTrainedTokenizerBase, place: int) -> LatentIds:
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("tokenizer: has no eos token; an answer would never end")
    closing = tokenizer.encode(_CLOSING, add_special_tokens=False)
    if not closing:
        raise ValueError(f"tokenizer: encodes {_CLOSING!r} to nothing; it ends the latent phase")
    pad = tokenizer.pad_token_id
    return LatentIds(NO_TOKEN, int(closing[place]), int(eos), int(eos if pad is None else pad))
