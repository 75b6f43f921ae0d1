"""A model object that already exists, seen as a generator or a LatentRM: told by weights, config and ids alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from latent_ext.hf.prompts import LatentTokens
from latent_ext.models.coconut import Coconut
from latent_ext.models.colar import SEPARATOR, Colar
from latent_ext.models.family import Family, LatentIds, ThoughtHead, single_token_id
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_heads import latent_policy_head, projector_head, projector_stages
from latent_ext.rewards.latent_rm import LatentRM, LatentRMModule

_NAMES = {"latent": "<|latent|>", "start": "<|start-latent|>", "end": "<|end-latent|>"}
_DEFAULT_LENGTH = 6


@dataclass(frozen=True)
class LiveCodi(Coconut):
    """CODI as LatentTTS holds it in memory: thoughts pass through the model's own ``projector``."""

    name: str = "codi"

    def thought_head(self, model: nn.Module) -> ThoughtHead:
        return projector_head(model.get_submodule("projector"))


# Those whose sequences a generate() can write down.
_FAMILIES: dict[str, type] = {"coconut": Coconut, "codi": LiveCodi, "colar": Colar}


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


def family_name(model: PreTrainedModel, family: str | Colar | None) -> str:
    """The family of a live model: the one that is given, else the one that its submodules tell.

    Raises:
        ValueError: for a family that is unknown or does not fit the model.
    """
    parts = dict(model.named_children())
    told = "codi" if "projector" in parts else "colar" if "lt_head" in parts else "coconut"
    name = family.name if isinstance(family, Colar) else family or told
    for owner, part in (("codi", "projector"), ("colar", "lt_head")):
        if name == owner and part not in parts:
            raise ValueError(
                f"family: {name!r} forms thoughts through a submodule {part!r}, which this model does not have"
            )
    if name not in _FAMILIES:
        raise ValueError(f"family: got {name!r}; allowed for a live model are {', '.join(_FAMILIES)}")
    if name == "coconut" and told != "coconut":
        raise ValueError(
            f"family: 'coconut' feeds the hidden state itself, but this model has the head of {told!r}"
        )
    return name


def live_family(
    model: PreTrainedModel, family: str | Colar | None, latent_length: int | None
) -> Coconut | Colar:
    """The family object of a live model.

    Args:
        family: as in `family_name`; an object brings its own factor and switches.
        latent_length: number of thoughts, 6 by default; CoLaR: the most, 64 by default.

    Raises:
        ValueError: for a family that is unknown or does not fit the model.
    """
    name = family_name(model, family)
    if name == "colar":
        return _live_colar(model, family if isinstance(family, Colar) else None, latent_length)
    make: Any = _FAMILIES[name]
    if latent_length is None:
        latent_length = _DEFAULT_LENGTH
    if latent_length < 1:
        raise ValueError(
            f"latent_length: got {latent_length}; at least 1 is needed here (latent_ext.solve runs without thoughts)"
        )
    return make(latent_length=latent_length)


def _live_colar(model: PreTrainedModel, given: Colar | None, most: int | None) -> Colar:
    """CoLaR with the factor that the model's config has."""
    if given is None:
        factor = getattr(model.config, "latent_embedding_std", Colar.embedding_std)
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0.0 < factor < math.inf:
            raise ValueError(
                f"latent_embedding_std: the model's config has {factor!r}; a positive number is needed"
            )
        given = Colar(embedding_std=float(factor))
    if given.semantics.cap != "separator":
        raise ValueError(
            f"model: was loaded with cap={given.semantics.cap!r}, whose later thoughts a sequence cannot show; "
            "'separator' is needed"
        )
    try:
        latent_policy_head(model.get_submodule("lt_head"), given.embedding_std)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"model: its lt_head is not CoLaR's: {error}") from error
    return given if most is None else replace(given, latent_length=most)


def latent_tokens(model: PreTrainedModel, family: str, tokenizer: Any, *configs: Any) -> LatentTokens:
    """Ids of the latent tokens: from the tokenizer if there is one, else from the first config that has them.

    CoLaR's separator both starts and ends the thoughts, so its `latent_start_id` is not read; and its tokenizer may do
    without ``<|latent|>``, which is then the config's.

    Args:
        family: its name.
        configs: looked at before ``model.config``.

    Raises:
        ValueError: naming the id that nobody knows.
    """
    found: dict[str, int] = {}
    names = {"latent": _NAMES["latent"], "end": SEPARATOR} if family == "colar" else _NAMES
    for role, text in names.items():
        optional = family == "colar" and role == "latent"
        if tokenizer is not None and not (optional and text not in tokenizer.get_vocab()):
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
    return LatentTokens(latent=found["latent"], start=found.get("start", found["end"]), end=found["end"])


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
    """A LatentRM, or a live module of LatentTTS's layout (a body, ``classifier`` and, for CODI, ``projector``) seen as one.

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
    if reward.positions != "real":
        raise ValueError(
            f"process_reward_model: has positions={reward.positions!r}, which latent_ext.solve alone scores at; "
            "positions='real' is needed here"
        )
    if reward.answer_format is not None:
        raise ValueError(
            "process_reward_model: reads answers, which latent_ext.solve alone scores; one that reads thoughts alone is "
            "needed here"
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
    if module.training:
        raise ValueError("process_reward_model: is in training mode; call eval() first")
    projector = parts.get("projector")
    if projector is not None:
        try:
            projector_stages(projector)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"process_reward_model: its projector is not CODI's: {error}") from error
    # The published module itself holds the weights; this one only names them.
    latent_rm = LatentRMModule(body)
    latent_rm.classifier = head
    if projector is not None:
        latent_rm.add_module("projector", projector)
    return LatentRM(latent_rm.eval(), type(module).__name__)
