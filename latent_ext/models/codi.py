"""CODI: a projection of the last hidden state is the next input (Shen et al., arXiv 2502.21074)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from latent_ext.models.answers import canonical_number
from latent_ext.models.family import LatentIds, ThoughtHead, needed_eos, single_token_id
from latent_ext.models.semantics import Semantics
from latent_ext.models.thought_heads import projector_head

_NUMBER = re.compile(r"-?\d+\.?\d*")


@dataclass(frozen=True)
class Codi:
    """CODI on GPT-2 or Llama: the question, a start token, T projected thoughts, an end token, the answer.

    Attributes:
        latent_length: number of thoughts T.
        semantics: the switches of this checkpoint.
        start, end: ids where the tokenizer has no strings for them (original layout); None: looked up.
    """

    latent_length: int = 6
    semantics: Semantics = field(default_factory=Semantics)
    start: int | None = None
    end: int | None = None
    name: str = "codi"

    def prompt(self, question: str) -> str:
        """Without the start token."""
        return question.strip().replace("  ", " ") if self.semantics.question == "squeezed" else question

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, question: str) -> Tensor:
        """int64 (length,): the tokenizer's ids with its own special tokens (Llama's begin of sequence), then start."""
        start = self.ids(tokenizer).start
        return torch.tensor([*tokenizer(self.prompt(question))["input_ids"], start], dtype=torch.int64)

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        eos = needed_eos(tokenizer)
        # The original's pad is the row before its start token.
        pad = tokenizer.pad_token_id if self.start is None else self.start - 1
        return LatentIds(
            start=single_token_id(tokenizer, "<|start-latent|>") if self.start is None else self.start,
            end=single_token_id(tokenizer, "<|end-latent|>") if self.end is None else self.end,
            eos=eos,
            pad=int(eos if pad is None else pad),
        )

    def thought_head(self, model: nn.Module) -> ThoughtHead:
        return projector_head(model.get_submodule("projector"))

    def answer(self, text: str) -> str | None:
        """The last number of the answer, commas removed; of the answer alone, never of the question."""
        found = _NUMBER.findall(text.replace(",", ""))
        return canonical_number(found[-1]) if found else None
