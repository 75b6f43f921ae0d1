"""The two heads that published models put between a hidden state and the next thought, read off their modules."""

from __future__ import annotations

from torch import nn

from latent_ext.models.family import HeadStage, ThoughtHead


def projector_head(projector: nn.Module) -> ThoughtHead:
    """CODI's projector: linear, GELU, linear, then a LayerNorm that ``next_thought`` applies.

    Args:
        projector: submodules named as in the LatentTTS layout: linears "1" and "3", LayerNorm "4" ("0" is dropout
            with p = 0 and "2" the GELU, neither of which is looked at).

    Raises:
        AttributeError: if a submodule is missing.
        TypeError: if one is of another type.
    """
    norm = _layer_norm(projector, "4")
    return ThoughtHead(
        stages=(_linear(projector, "1"), HeadStage("gelu"), _linear(projector, "3")),
        norm="layer",
        weight=norm.weight,
        bias=norm.bias,
        eps=norm.eps,
    )


def projector_stages(projector: nn.Module) -> tuple[HeadStage, ...]:
    """CODI's projector with its LayerNorm as a stage, for a LatentRM; arguments and errors as `projector_head`."""
    first, second, norm = _linear(projector, "1"), _linear(projector, "3"), _layer_norm(projector, "4")
    return (first, HeadStage("gelu"), second, HeadStage("layer", norm.weight, norm.bias, norm.eps))


def latent_policy_head(policy: nn.Module, embedding_std: float) -> ThoughtHead:
    """CoLaR's head: linear, GELU, linear, LayerNorm, linear, then a scale; with a learned deviation where it has one.

    Args:
        policy: submodules named as in the LatentTTS layout: linears "fc.0", "fc.2" and "mean", LayerNorm "fc.3"
            ("fc.1" is the GELU, which is not looked at); and a linear "log_std" in the original layout.
        embedding_std: factor on the head's output, which was trained on embeddings divided by it
            (``latent_embedding_std``).

    Raises:
        AttributeError: if a submodule is missing.
        TypeError: if one is of another type.
    """
    return ThoughtHead(
        stages=(
            _linear(policy, "fc.0"),
            HeadStage("gelu"),
            _linear(policy, "fc.2"),
            _layer_norm(policy, "fc.3"),
            _linear(policy, "mean"),
        ),
        scale=embedding_std,
        log_std=_linear(policy, "log_std") if "log_std" in dict(policy.named_children()) else None,
    )


def _linear(module: nn.Module, name: str) -> HeadStage:
    part = module.get_submodule(name)
    if not isinstance(part, nn.Linear):
        raise TypeError(f"{name}: got {type(part).__name__}; a Linear is needed")
    return HeadStage("linear", part.weight, part.bias)


def _layer_norm(module: nn.Module, name: str) -> HeadStage:
    part = module.get_submodule(name)
    if not isinstance(part, nn.LayerNorm):
        raise TypeError(f"{name}: got {type(part).__name__}; a LayerNorm is needed")
    return HeadStage("layer", part.weight, part.bias, part.eps)
