"""A model object that already exists, seen as a generator or a LatentRM: told by weights, config and ids alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from latent_ext.hf.prompts import LatentTokens
from latent_ext.models.coconut import Coconut
from latent_ext.models.family import Family, LatentIds, ThoughtHead, single_token_id
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_heads import projector_head
from latent_ext.rewards.latent_rm import LatentRM, LatentRMModule

_NAMES = {"latent": "<|latent|>", "start": "<|start-latent|>", "end": "<|end-latent|>"}
_DEFAULT_LENGTH = 6


@dataclass(frozen=True)
class LiveCodi(Coconut):
    """CODI as LatentTTS holds it in memory: thoughts pass through the model's own ``projector``."""

    name: str = "codi"

    def thought_head(self, model: nn.Module) -> ThoughtHead:
        return projector_head(model.get_submodule("projector"))


# Those with a fixed number of thoughts between the latent tokens, which is what a generate() can write down.
_FAMILIES: dict[str, type[Coconut]] = {"coconut": Coconut, "codi": LiveCodi}


def check_live(model: object) -> GPT2LMHeadModel | LlamaForCausalLM:
    """`model`, if the engines can run it.

    Raises:
        TypeError: for another class than ``GPT2LMHeadModel``, ``LlamaForCausalLM`` and their subclasses.
        ValueError: for a model in training mode, whose own dropout would act everywhere.
    """
    if not isinstance(model, (GPT2LMHeadModel, LlamaForCausalLM)):
        raise TypeError(
            f"model: got {type(model).__name__}; allowed are GPT2LMHeadModel, LlamaForCausalLM and their subclasses"
        )
    if model.training:
        raise ValueError("model: is in training mode; call model.eval() first")
    return model


def live_family(model: PreTrainedModel, family: str | None, latent_length: int | None) -> Family:
    """The family of a live model: the one that is named, else the one that its submodules tell.

    Raises:
        ValueError: for a family that is unknown or does not fit the model.
    """
    parts = dict(model.named_children())
    told = "codi" if "projector" in parts else "colar" if "lt_head" in parts else "coconut"
    name = family or told
    if name == "codi" and "projector" not in parts:
        raise ValueError("family: 'codi' forms thoughts through a projector, which this model does not have")
    if name not in _FAMILIES:
        raise ValueError(f"family: got {name!r}; allowed for a live model are {', '.join(_FAMILIES)}")
    if name == "coconut" and told != "coconut":
        raise ValueError(
            f"family: 'coconut' feeds the hidden state itself, but this model has the head of {told!r}"
        )
    return _FAMILIES[name](latent_length=latent_length or _DEFAULT_LENGTH)


def latent_tokens(model: PreTrainedModel, tokenizer: Any, *configs: Any) -> LatentTokens:
    """Ids of the latent tokens: from the tokenizer if there is one, else from the first config that has them.

    Args:
        configs: looked at before ``model.config``.

    Raises:
        ValueError: naming the id that nobody knows.
    """
    found: dict[str, int] = {}
    for role, text in _NAMES.items():
        if tokenizer is not None:
            found[role] = single_token_id(tokenizer, text)
            continue
        field = "latent_id" if role == "latent" else f"latent_{role}_id"
        for config in (*configs, model.config):
            value = getattr(config, field, None)
            # LatentTTS's configs say -100 or -1 for "not set".
            if isinstance(value, int) and value >= 0:
                found[role] = value
                break
        else:
            raise ValueError(
                f"{field}: not known; give a tokenizer that has {text!r}, or set it in the config"
            )
    return LatentTokens(**found)


def live_latent_model(
    model: GPT2LMHeadModel | LlamaForCausalLM,
    tokens: LatentTokens,
    *,
    family: Family,
    eos: int,
    pad: int,
) -> LatentModel:
    """The engines' view of a live model; it shares all weights and has no tokenizer.

    Raises:
        ValueError: for ids outside the embedding.
    """
    embedding: Any = model.get_input_embeddings()  # typed as any module
    rows = int(embedding.weight.shape[0])
    for name, token in (
        ("latent_start_id", tokens.start),
        ("latent_end_id", tokens.end),
        ("eos_token_id", eos),
    ):
        if not 0 <= token < rows:
            raise ValueError(f"{name}: got {token}; the model's embedding has {rows} rows")
    ids = LatentIds(start=tokens.start, end=tokens.end, eos=eos, pad=pad)
    no_tokenizer: Any = None  # engines and runs see ids alone
    return LatentModel(model, no_tokenizer, family, ids, type(model).__name__)


def live_reward(reward: object, hidden_size: int) -> LatentRM | None:
    """A LatentRM, or a live module of LatentTTS's layout (a body and ``classifier``) seen as one.

    Raises:
        TypeError: for anything else.
        ValueError: for a head or a size that does not fit.
    """
    if reward is None:
        return None
    if isinstance(reward, nn.Module):
        reward = _as_latent_rm(reward)
    if not isinstance(reward, LatentRM):
        raise TypeError(
            f"process_reward_model: got {type(reward).__name__}; allowed are a LatentRM "
            "(latent_ext.load_reward) and a token classifier of LatentTTS"
        )
    if reward.blocks.hidden_size != hidden_size:
        raise ValueError(
            f"process_reward_model: reads thoughts of size {reward.blocks.hidden_size}; this model's have {hidden_size}"
        )
    return reward


def _as_latent_rm(module: nn.Module) -> LatentRM:
    parts = dict(module.named_children())
    body = parts.get("transformer", parts.get("model"))
    head = parts.get("classifier")
    if not isinstance(body, PreTrainedModel) or not isinstance(head, nn.Linear):
        raise TypeError(
            f"process_reward_model: {type(module).__name__} has no body named transformer or model with a linear "
            "classifier beside it"
        )
    if head.out_features != 1 or head.bias is None:
        raise ValueError(
            f"process_reward_model: its classifier has {head.out_features} outputs; one, with a bias, is needed"
        )
    if "projector" in parts:
        raise ValueError(
            "process_reward_model: scores through a projector, which is not supported for a live module"
        )
    if module.training:
        raise ValueError("process_reward_model: is in training mode; call eval() first")
    # The published module itself holds the weights; this one only names them.
    latent_rm = LatentRMModule(body)
    latent_rm.classifier = head
    return LatentRM(latent_rm.eval(), type(module).__name__)
