"""``load``: a latent reasoning model from a directory or the Hub, with its tokenizer and family."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
)

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.models.blocks import Blocks, blocks_of
from latent_ext.models.checkpoint import (
    CheckpointError,
    cast_parameters,
    load_into,
    read_config,
    read_tensors,
    resolve,
)
from latent_ext.models.coconut import Coconut
from latent_ext.models.configs import body_config, build
from latent_ext.models.depth import DepthSteps
from latent_ext.models.depth_checkpoint import default_family, is_depth, read_depth
from latent_ext.models.family import NO_TOKEN, Family, Feedback, LatentIds, prompt_ids
from latent_ext.models.huginn import Huginn
from latent_ext.models.ouro import Ouro
from latent_ext.models.soft_thinking import LatentGRPO, SoftThinking

# Family names by the class that a LatentTTS config.json names.
_FAMILY_OF_ARCHITECTURE = {"COCONUTGPT2": "coconut", "GPT2LMHeadModel": "coconut"}
_MODULES = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}
FAMILIES: dict[str, Any] = {
    "coconut": Coconut,
    "soft-thinking": SoftThinking,
    "latent-grpo": LatentGRPO,
    "huginn": Huginn,
    "ouro": Ouro,
}


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
        ids = prompt_ids(self.tokenizer, self.family.prompt(question))
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


def load(
    path_or_hub_id: str | Path = "shipped",
    *,
    family: str | Family | None = None,
    latent_length: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> LatentModel:
    """Loads a latent reasoning model.

    Args:
        path_or_hub_id: a directory, a Hub id (offline once cached), or "shipped" for the small model in the
            package.
        family: "coconut", "soft-thinking" or "latent-grpo", on a GPT-2, Llama or Qwen2 body, "huginn", "ouro", or an
            object with the methods of `latent_ext.models.family.Family` (docs/your-own-family.md). Default: by the
            architecture that config.json names; for Llama and Qwen2 it must be given.
        latent_length: number of thoughts T, see `Family.latent_length`. Default: ``latent_length`` of config.json,
            else the family's; with a family object always its own, unless given here.
        dtype: storage of the weights; always set, since checkpoints differ.
        device: where the model will be.
        revision: Hub revision.

    Returns:
        The model, in eval mode and without gradients.

    Raises:
        CheckpointError: one sentence that names the file or tensor at fault.
        ValueError: for an unknown family or a latent_length that is no whole number >= 1.

    Example:
        >>> import latent_ext
        >>> model = latent_ext.load()
        >>> model.family.name
        'coconut'
    """
    source = str(path_or_hub_id)
    directory = SHIPPED_GENERATOR if source == "shipped" else resolve(path_or_hub_id, revision=revision)
    config = read_config(directory)
    chosen = _family(family, config, source)
    steps = latent_length if latent_length is not None else config.get("latent_length")
    if family is not None and not isinstance(family, str) and latent_length is None:
        steps = None
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(f"latent_length: got {steps!r}; a whole number of thoughts >= 1 is needed")
    tensors = read_tensors(directory)
    hf: Any
    if is_depth(config):
        hf, tensors = read_depth(config, tensors, source)
        hf_config = hf.config
    else:
        hf_config = body_config(config, tensors, source)
        hf = build(_MODULES[hf_config.model_type], hf_config, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"model: {source} has no usable tokenizer: {str(error).splitlines()[0]}"
        ) from None
    if steps is not None and not is_dataclass(chosen):
        raise ValueError(
            f"latent_length: got {steps}; this family is no dataclass, so give its object its own"
        )
    if steps is not None:
        chosen = replace(chosen, latent_length=steps)
    ids = chosen.ids(tokenizer)
    for role in ("start", "end", "eos"):
        token = getattr(ids, role)
        if token != NO_TOKEN and token >= hf_config.vocab_size:
            raise CheckpointError(
                f"checkpoint {source}: token id {token} ({role}) is outside the embedding of "
                f"{hf_config.vocab_size} rows"
            )
    cast_parameters(hf, dtype)
    tied = ("lm_head.weight",) if hf_config.tie_word_embeddings else ()
    load_into(hf, tensors, tied=tied, source=source)
    hf.tie_weights()
    hf.eval().requires_grad_(False)
    weights_hash = hash_weights(hf)
    return LatentModel(hf.to(device), tokenizer, chosen, ids, source, weights_hash)


def _family(family: str | Family | None, config: dict, source: str) -> Family:
    """The family that was asked for, or the one that config.json speaks of."""
    if family is not None and not isinstance(family, str):
        return family
    if is_depth(config):
        own = default_family(config)
        if family not in (None, own.name):
            raise ValueError(
                f"family: got {family!r}; a model_type {config['model_type']!r} allows {own.name}"
            )
        return own
    name = family or _family_name(config, source)
    if name not in FAMILIES:
        raise ValueError(f"family: got {name!r}; allowed are {', '.join(FAMILIES)}")
    if name in ("huginn", "ouro"):
        raise ValueError(f"family: {name!r} needs its own model_type, not {config.get('model_type')!r}")
    return FAMILIES[name]()


def _family_name(config: dict, source: str) -> str:
    architectures = config.get("architectures") or []
    for architecture in architectures:
        if architecture in _FAMILY_OF_ARCHITECTURE:
            return _FAMILY_OF_ARCHITECTURE[architecture]
    raise CheckpointError(
        f"checkpoint {source}: no family is known for architectures {architectures}; "
        f"name one with family=, allowed are {', '.join(FAMILIES)}"
    )
