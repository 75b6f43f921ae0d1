"""CoLaR: a head predicts the next compressed embedding, and the model itself ends its thoughts (Tan et al.,
arXiv 2505.16552)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from latent_ext.models.answers import canonical_number
from latent_ext.models.family import LatentIds, ThoughtHead, needed_eos, single_token_id
from latent_ext.models.semantics import Semantics
from latent_ext.models.thought_heads import latent_policy_head

SEPARATOR = "###"
_ANSWER = "Answer:"


@dataclass(frozen=True)
class Colar:
    """CoLaR on Llama: a separator closes the prompt, and another one the thoughts, of which rows have various numbers.

    Attributes:
        latent_length: the most thoughts that a row may have.
        embedding_std: factor on the head's output; trained per base model (Llama-3.2-1B and 3B 0.018).
        semantics: the switches of this checkpoint.
    """

    latent_length: int = 64
    embedding_std: float = 0.018
    semantics: Semantics = field(default_factory=lambda: Semantics(stop="argmax"))
    name: str = "colar"

    def prompt(self, question: str) -> str:
        speed = self.semantics.speed
        return f"Question: {question} Let's think step by step:(Thinking speed: {speed}){SEPARATOR}"

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, question: str) -> Tensor:
        """int64 (length,); no begin of sequence, as published."""
        listed = tokenizer(self.prompt(question), add_special_tokens=False)["input_ids"]
        return torch.tensor(listed, dtype=torch.int64)

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        separator, eos = single_token_id(tokenizer, SEPARATOR), needed_eos(tokenizer)
        pad = tokenizer.pad_token_id
        return LatentIds(start=separator, end=separator, eos=eos, pad=int(eos if pad is None else pad))

    def thought_head(self, model: nn.Module) -> ThoughtHead:
        return latent_policy_head(model.get_submodule("lt_head"), self.embedding_std)

    def answer(self, text: str) -> str | None:
        """The number after ``Answer:``; text without it is no answer."""
        stripped = text.strip().strip("#")
        _, found, tail = (
            stripped.rpartition(_ANSWER) if self.semantics.marker == "last" else stripped.partition(_ANSWER)
        )
        return canonical_number(tail) if found else None
