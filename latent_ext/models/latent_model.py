"""A latent reasoning model as the engines see it: Hugging Face modules, tokenizer, family."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from latent_ext.models.blocks import Blocks, blocks_of
from latent_ext.models.family import Family, LatentIds, prompt_ids
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

    hf: GPT2LMHeadModel | LlamaForCausalLM
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
        """The model without its output embedding: ``GPT2Model`` or ``LlamaModel``."""
        return self.hf.model if isinstance(self.hf, LlamaForCausalLM) else self.hf.transformer

    @property
    def blocks(self) -> Blocks:
        return blocks_of(self.body)

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
        longest = self.max_positions - self.family.latent_length - 2
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
        """Text of answer tokens; an end-of-sequence token and what follows it are left out."""
        if self.ids.eos in tokens:
            tokens = tokens[: tokens.index(self.ids.eos)]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def hash_weights(module: torch.nn.Module) -> str:
    """First 16 hex digits of the BLAKE2b over all parameters (names, then values as float32)."""
    digest = hashlib.blake2b()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
