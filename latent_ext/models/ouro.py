"""Ouro: the whole stack is run T times per token (LoopLM; Zhu et al., arXiv 2510.25741).

``ByteDance/Ouro-1.4B``, ``-2.6B`` and their ``-Thinking`` variants: model_type "ouro"; no remote code is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from latent_ext.models.chat import Chat
from latent_ext.models.family import NO_TOKEN, LatentIds, single_token_id
from latent_ext.models.ouro_body import ExitRule, OuroForCausalLM, OuroSteps
from latent_ext.models.written_answers import boxed_number


@dataclass(frozen=True)
class Ouro:
    """Ouro with a fixed number of passes.

    Attributes:
        latent_length: passes per token (published: 4).
        exit_rule: which pass the LM head reads, see `OuroSteps`. The published threshold of 1.0 means the last pass, yet
            its cumulative sum can round up to 1.0 before; "threshold" with 1.0 is that behaviour in float32.
        threshold: of exit_rule="threshold".
        opening: text that the assistant's turn opens with; ``"<think>\\n"`` for the Thinking variants.

    Raises:
        ValueError: for an unknown exit rule or a threshold outside (0, 1].
    """

    latent_length: int = 4
    exit_rule: ExitRule = "last"
    threshold: float = 1.0
    opening: str = ""
    name: str = "ouro"

    def __post_init__(self) -> None:
        if self.exit_rule not in ("last", "threshold", "weighted"):
            raise ValueError(
                f"exit_rule: got {self.exit_rule!r}; allowed are 'last', 'threshold', 'weighted'"
            )
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"threshold: got {self.threshold!r}; a probability in (0, 1] is needed")

    def prompt(self, question: str) -> Chat:
        return Chat(question, opening=self.opening)

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        # config.json and the tokenizer name <|endoftext|> for everything; the chat model ends its turns by <|im_end|>.
        end = single_token_id(tokenizer, "<|im_end|>")
        text_end: Any = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        stops = () if text_end in (None, tokenizer.unk_token_id) else (int(text_end),)
        return LatentIds(NO_TOKEN, NO_TOKEN, end, stops[0] if stops else end, stops)

    def thought_head(self, model: nn.Module) -> OuroSteps:
        assert isinstance(model, OuroForCausalLM)
        return OuroSteps(model, self.latent_length, self.exit_rule, self.threshold)

    def answer(self, text: str) -> str | None:
        return boxed_number(text)
