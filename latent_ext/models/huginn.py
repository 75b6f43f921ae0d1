"""Huginn: every token thinks in the core block, from a random state (Geiping et al., arXiv 2502.05171).

``tomg-group-umd/huginn-0125``: model_type "huginn_raven"; no remote code is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from latent_ext.models.chat import Chat
from latent_ext.models.family import NO_TOKEN, LatentIds
from latent_ext.models.huginn_body import HuginnForCausalLM, HuginnSteps
from latent_ext.models.written_answers import stated_number

_SYSTEM = "You are a helpful assistant that can assist users with mathematical reasoning."


@dataclass(frozen=True)
class Huginn:
    """Huginn with a fixed number of core steps.

    Published early exits, missing depths in the cache, and continuous compute are not offered: every token takes all
    steps.

    Attributes:
        latent_length: core steps per token (published: 32, the depth that it was trained around).
    """

    latent_length: int = 32
    name: str = "huginn"

    def prompt(self, question: str) -> Chat:
        return Chat(question, system=_SYSTEM)

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> LatentIds:
        # The tokenizer's names; generation stops at any of the three.
        end, begin, turn = (
            _added(tokenizer, f"<|{name}|>") for name in ("end_text", "begin_text", "end_turn")
        )
        pad = tokenizer.pad_token_id
        return LatentIds(NO_TOKEN, NO_TOKEN, end, end if pad is None else int(pad), (begin, turn))

    def thought_head(self, model: nn.Module) -> HuginnSteps:
        assert isinstance(model, HuginnForCausalLM)
        return HuginnSteps(model, self.latent_length)

    def answer(self, text: str) -> str | None:
        return stated_number(text)


def _added(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found: Any = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise ValueError(f"tokenizer: has no token {token!r}; answers end with it")
    return int(found)
