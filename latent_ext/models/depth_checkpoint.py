"""Checkpoints of depth-recurrent models: config.json and tensors in the published layouts of Huginn and Ouro."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedModel

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.configs import build
from latent_ext.models.huginn import Huginn
from latent_ext.models.huginn_body import HuginnConfig, HuginnForCausalLM
from latent_ext.models.ouro import Ouro
from latent_ext.models.ouro_body import OuroConfig, OuroForCausalLM

# What the published code could also be configured to be; other values would be another network.
_HUGINN_IS = {
    "block_class_name": "SandwichBlock",
    "norm_class_name": "RMSNorm_llama",
    "mlp_class_name": "GatedMLP",
    "nonlin_name": "SiLU",
    "injection_type": "linear",
    "state_init": "like-init",
    "bias": False,
}
_OURO_IS = {"use_sliding_window": False, "attention_bias": False, "mlp_bias": False}
# These say how a checkpoint was stored or which code wrote it, not what the body is.
_LEFT_OUT = ("architectures", "auto_map", "dtype", "torch_dtype", "model_type", "transformers_version")


def is_depth(config: dict) -> bool:
    """Whether a parsed ``config.json`` is of a depth-recurrent model."""
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type in _READERS


def read_depth(config: dict, tensors: dict[str, Tensor], source: str) -> tuple[Any, dict[str, Tensor]]:
    """A freshly built module and the tensors that belong into it.

    Args:
        config: the parsed ``config.json``; its ``model_type`` is "huginn_raven" or "ouro".
        tensors: all tensors of the checkpoint.
        source: named in errors.

    Returns:
        ``HuginnForCausalLM`` or ``OuroForCausalLM`` with fresh weights, and `tensors` without what is computed anew.

    Raises:
        CheckpointError: for settings of another network, or sizes that no module can be built from.
    """
    return _READERS[config["model_type"]](config, tensors, source)


def default_family(config: dict) -> Huginn | Ouro:
    """The family that a config.json states, with its trained depth."""
    if config["model_type"] == "huginn_raven":
        return Huginn(int(config.get("mean_recurrence", 32)))
    threshold = float(config.get("early_exit_threshold") or 1.0)
    return Ouro(
        int(config.get("total_ut_steps", 4)),
        exit_rule="threshold" if threshold < 1.0 else "last",
        threshold=threshold,
    )


def _huginn(
    config: dict, tensors: dict[str, Tensor], source: str
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    _demand(config, _HUGINN_IS, source)
    known = {key: value for key, value in config.items() if key not in (*_LEFT_OUT, *_HUGINN_IS)}
    heads = {"n_heads": known.pop("num_attention_heads")} if "num_attention_heads" in known else {}
    known = heads | known
    if known.pop("num_key_value_heads", known.get("n_heads")) != known.get("n_heads"):
        raise CheckpointError(f"checkpoint {source}: num_key_value_heads differs from the number of heads")
    table = _table(tensors, "transformer.wte.weight", source)
    known["vocab_size"] = table.shape[0]
    # The table of rotations is computed from rope_base.
    kept = {name: tensor for name, tensor in tensors.items() if name != "freqs_cis"}
    module = build(HuginnForCausalLM, _config(HuginnConfig, known, source), source)
    return module, kept


def _ouro(config: dict, tensors: dict[str, Tensor], source: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    _demand(config, _OURO_IS, source)
    dropped = (*_LEFT_OUT, *_OURO_IS, "layer_types", "sliding_window", "max_window_layers")
    known = {key: value for key, value in config.items() if key not in dropped}
    # One id for three roles, and not the one that ends a turn: the family looks ids up in the tokenizer.
    known = {key: value for key, value in known.items() if not key.endswith("_token_id")}
    known["vocab_size"] = _table(tensors, "model.embed_tokens.weight", source).shape[0]
    for field in ("early_exit_threshold", "rope_scaling"):  # null stands for the default
        if known.get(field) is None:
            known.pop(field, None)
    return build(OuroForCausalLM, _config(OuroConfig, known, source), source), tensors


_READERS = {"huginn_raven": _huginn, "ouro": _ouro}


def _demand(config: dict, needed: dict[str, Any], source: str) -> None:
    for field, value in needed.items():
        if config.get(field, value) != value:
            raise CheckpointError(
                f"checkpoint {source}: {field} is {config[field]!r}; only {value!r} is supported"
            )


def _table(tensors: dict[str, Tensor], name: str, source: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"checkpoint {source}: tensor {name!r} is missing")
    if tensors[name].dim() != 2:
        raise CheckpointError(
            f"checkpoint {source}: tensor {name!r} has {tensors[name].dim()} dimensions; 2 are needed"
        )
    return tensors[name]


def _config(config_class: type, known: dict[str, Any], source: str) -> Any:
    try:
        return config_class(**known)
    except (TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"checkpoint {source}: config.json is no {config_class.__name__}: {reason}"
        ) from None
