"""A latent reasoning model as the engines see it: Hugging Face modules, tokenizer, family."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from latent_ext.models.blocks import Blocks, blocks_of
from latent_ext.models.depth import DepthSteps
from latent_ext.models.family import Family, Feedback, LatentIds, prompt_ids
from latent_ext.models.semantics import Semantics, semantics_of


@dataclass
class LatentModel:
    """A generator: Hugging Face modules, tokenizer, family.

    Attributes:
        hf: in eval mode.
        tokenizer: the checkpoint's own.
        family: how its latent phase is framed and its answers are read.
        ids: token ids that frame the latent phase.
        name: what ``load`` was given.
        weights_hash: first 16 hex digits of the BLAKE2b of all parameters; stored with everything trained on
            this generator.
    """

    hf: Any  # GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM, HuginnForCausalLM or OuroForCausalLM
    tokenizer: PreTrainedTokenizerBase
    family: Family
    ids: LatentIds
    name: str
    weights_hash: str = ""

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def body(self) -> PreTrainedModel:
        """The model without its output embedding: ``GPT2Model``, ``LlamaModel`` or ``Qwen2Model``."""
        return self.hf.base_model

    @property
    def blocks(self) -> Blocks:
        return blocks_of(self.body)

    @property
    def feedback(self) -> Feedback:
        """How the next thought is formed."""
        return self.family.thought_head(self.hf)

    @property
    def thought_positions(self) -> int:
        """Most positions that thoughts take between prompt and answer: none where they are depth steps."""
        return 0 if isinstance(self.feedback, DepthSteps) else self.family.latent_length

    @property
    def lm_head(self) -> Tensor:
        """(vocab, hidden) output embedding."""
        return self.hf.lm_head.weight

    @property
    def answer_head(self) -> Tensor:
        """(allowed, hidden), the rows of the output embedding that answers are drawn from: all, or all but the end
        token's.

        Raises:
            ValueError: if the end token is to be left out and is not the last row.
        """
        if self.semantics.end_token == "allowed":
            return self.lm_head
        if self.ids.end != len(self.lm_head) - 1:
            raise ValueError(
                f"switches: end_token: 'excluded' needs the end token in the last of {len(self.lm_head)} rows; "
                f"its id is {self.ids.end}"
            )
        return self.lm_head[: self.ids.end]

    @property
    def semantics(self) -> Semantics:
        """The switches that this model runs with."""
        return semantics_of(self.family)

    @property
    def max_positions(self) -> int:
        return int(self.hf.config.max_position_embeddings)

    def encode(self, question: str) -> Tensor:
        """int64 (length,) prompt ids of one question.

        Raises:
            ValueError: if the question is blank, or the prompt leaves no room for thoughts, end token and
                answer.
        """
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question: got {question!r}; a text that is not blank is needed")
        ids = prompt_ids(self.family, self.tokenizer, question)
        longest = self.max_positions - self.thought_positions - 2
        if len(ids) > longest:
            raise ValueError(
                f"question: its prompt has {len(ids)} tokens; this model takes at most {longest}"
            )
        return ids.to(self.device)

    def unknown_words(self, question: str) -> list[str]:
        """Words that the tokenizer maps to its unknown token: a closed-vocabulary model cannot read them."""
        tokenizer = self.tokenizer
        unknown = tokenizer.unk_token_id
        if unknown is None or unknown == self.ids.eos:
            return []
        encoded = tokenizer(question, return_offsets_mapping=True)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [question[start:end].strip() for token, (start, end) in spans if token == unknown]

    def decode(self, tokens: list[int]) -> str:
        """Text of answer tokens; a token that ends the answer and what follows it are left out."""
        ends = [place for place, token in enumerate(tokens) if self.ids.end_of_answer(token)]
        if ends:
            tokens = tokens[: ends[0]]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def hash_weights(module: torch.nn.Module) -> str:
    """First 16 hex digits of the BLAKE2b over all parameters (names, then values as float32)."""
    digest = hashlib.blake2b()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
