"""Hugging Face configs from checkpoints: the bodies that can be read, and their table sizes."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from latent_ext.models.checkpoint import CheckpointError

# Per model_type: the config class, and the field that the number of rows of each table gives.
_BODIES: dict[str, tuple[type, dict[str, str]]] = {
    "gpt2": (
        GPT2Config,
        {"vocab_size": "transformer.wte.weight", "n_positions": "transformer.wpe.weight"},
    ),
    "llama": (LlamaConfig, {"vocab_size": "model.embed_tokens.weight"}),
    "qwen2": (Qwen2Config, {"vocab_size": "model.embed_tokens.weight"}),
}
# These say how a checkpoint was stored or which class wrote it, not what the body is.
_LEFT_OUT = ("architectures", "dtype", "torch_dtype", "model_type")


def body_config(
    config: dict, tensors: dict[str, Tensor], source: str
) -> GPT2Config | LlamaConfig | Qwen2Config:
    """Config of a checkpoint's body, table sizes taken from the tensors: configs often lack added tokens.

    Args:
        config: the parsed ``config.json``; its ``model_type`` is "gpt2", "llama" or "qwen2".
        tensors: all tensors of the checkpoint.
        source: named in errors.

    Raises:
        CheckpointError: for another ``model_type``, a table that is missing or not a matrix, or values that the
            body's config class refuses.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _BODIES:
        raise CheckpointError(
            f"checkpoint {source}: model_type is {model_type!r}; "
            f"{', '.join(map(repr, _BODIES))} are supported"
        )
    if config.get("use_sliding_window"):
        raise CheckpointError(
            f"checkpoint {source}: use_sliding_window is set; only full attention is supported"
        )
    config_class, tables = _BODIES[model_type]
    known = {key: value for key, value in config.items() if key not in _LEFT_OUT}
    for field, name in tables.items():
        if name not in tensors:
            raise CheckpointError(f"checkpoint {source}: tensor {name!r} is missing")
        if tensors[name].dim() != 2:
            raise CheckpointError(
                f"checkpoint {source}: tensor {name!r} has {tensors[name].dim()} dimensions; 2 are needed"
            )
        known[field] = tensors[name].shape[0]
    try:
        return config_class(**known)
    except (TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"checkpoint {source}: config.json is no {config_class.__name__}: {reason}"
        ) from None


def build(module_class: type, config: PretrainedConfig, source: str) -> Any:
    """``module_class(config)`` with fresh weights; Any, since Hugging Face's decorated ``.to()`` has no signature.

    Raises:
        CheckpointError: for values that the config class lets through and the modules do not know, such as an
            activation or a kind of rotary scaling.
    """
    try:
        return module_class(config)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {source}: no {module_class.__name__} can be built from config.json: "
            f"{type(error).__name__} {error}"
        ) from None
