"""COCONUT: the last hidden state itself is the next input (Hao et al., arXiv 2412.06769).

Layout and prompt are those of LatentTTS (arXiv 2510.07745): ``question + "\\n<|start-latent|>"``, six
thoughts, ``<|end-latent|>``, then ``### answer``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedTokenizerBase

from latent_ext.models.answers import answer_after_marker
from latent_ext.models.family import LatentIds, ThoughtHead, needed_eos, single_token_id


@dataclass(frozen=True)
class Coconut:
    """COCONUT on GPT-2 or Llama.

    Attributes:
        latent_length: number of thoughts T.
    """

    latent_length: int = 6
    name: str = "coconut"

    def prompt(self, question: str) -> str:
        return f"{question}\n<|start-latent|>"

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        eos = needed_eos(tokenizer)
        pad = tokenizer.pad_token_id
        return LatentIds(
            start=single_token_id(tokenizer, "<|start-latent|>"),
            end=single_token_id(tokenizer, "<|end-latent|>"),
            eos=eos,
            pad=int(eos if pad is None else pad),
        )

    def thought_head(self, model: nn.Module) -> ThoughtHead:
        return ThoughtHead()

    def answer(self, text: str) -> str | None:
        return answer_after_marker(text)
