"""Prompts of chat models: messages for the tokenizer's own template."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Chat:
    """A prompt for ``tokenizer.apply_chat_template``, with the header of the assistant's turn at its end.

    Attributes:
        user: text of the user's message.
        system: text of the system message; None for none.
        opening: text that the assistant's turn opens with, added where the template does not end with it.
    """

    user: str
    system: str | None = None
    opening: str = ""

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """int64 (length,); the template writes the special tokens, so the tokenizer adds none.

        Raises:
            ValueError: if the tokenizer has no chat template.
        """
        if tokenizer.chat_template is None:
            raise ValueError("tokenizer: has no chat template, which this family's prompts are written with")
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": self.user})
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        if self.opening and not text.rstrip().endswith(self.opening.rstrip()):
            text += self.opening
        return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)
