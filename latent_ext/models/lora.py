"""LoRA adapters of published checkpoints: merged into the weights, or kept beside them (Hu et al., arXiv 2106.09685).

Names are those of the linear with ``.lora_A.weight`` (rank, in) and ``.lora_B.weight`` (out, rank) behind it.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from latent_ext.models.checkpoint import CheckpointError

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


class LoraLinear(nn.Module):
    """A linear layer with an adapter beside it: ``base(x) + scale * B(A(x))``, each product in the layers' dtype.

    Args:
        base_layer: a ``Linear`` or a GPT-2 ``Conv1D``.
        lora_a: (rank, in).
        lora_b: (out, rank).
        scale: alpha / rank.
    """

    def __init__(self, base_layer: nn.Module, lora_a: Tensor, lora_b: Tensor, scale: float) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Parameter(lora_a)
        self.lora_B = nn.Parameter(lora_b)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + (x @ self.lora_A.T) @ self.lora_B.T * self.scale


def adapted(tensors: dict[str, Tensor], source: str) -> list[str]:
    """Names of the linears that have an adapter.

    Raises:
        CheckpointError: naming the tensor, where half of an adapter is missing.
    """
    names = set()
    for name in tensors:
        for own, other in ((LORA_A, LORA_B), (LORA_B, LORA_A)):
            if name.endswith(own):
                linear = name.removesuffix(own)
                if linear + other not in tensors:
                    raise CheckpointError(f"checkpoint {source}: tensor {linear + other!r} is missing")
                names.add(linear)
    return sorted(names)


def merged(tensors: dict[str, Tensor], alpha: int, source: str) -> dict[str, Tensor]:
    """`tensors` with every adapter added to its weight in float32 and gone; adapted weights come back in float32.

    Args:
        tensors: weights and adapters; GPT-2's Conv1D weights are (in, out).
        alpha: LoRA's alpha; the scale is alpha / rank.
        source: named in errors.

    Raises:
        CheckpointError: naming the tensor, where shapes do not fit or half of an adapter is missing.
    """
    result = dict(tensors)
    for linear in adapted(tensors, source):
        lora_a, lora_b = result.pop(linear + LORA_A), result.pop(linear + LORA_B)
        name = f"{linear}.weight"
        if name not in result:
            raise CheckpointError(f"checkpoint {source}: tensor {name!r} is missing")
        weight = result[name]
        conv1d = linear.startswith("transformer.")
        shape = tuple(weight.shape) if weight.dim() == 2 else (0, 0)
        _check_shapes(linear, lora_a, lora_b, shape[::-1] if conv1d else shape, source)
        update = lora_b.float() @ lora_a.float() * (alpha / lora_a.shape[0])
        result[name] = weight.float() + (update.T if conv1d else update)
    return result


def attach(module: nn.Module, tensors: dict[str, Tensor], alpha: int, source: str) -> dict[str, Tensor]:
    """Puts the adapters of `tensors` beside the linears of `module`; returns the tensors without them.

    Args:
        module: its linears have their weights' dtype, which the adapters take on.
        tensors: weights and adapters.
        alpha: LoRA's alpha; the scale is alpha / rank.
        source: named in errors.

    Raises:
        CheckpointError: naming the tensor, where shapes do not fit, half of an adapter or its linear is missing.
    """
    rest = dict(tensors)
    modules = dict(module.named_modules())
    for name in adapted(tensors, source):
        lora_a, lora_b = rest.pop(name + LORA_A), rest.pop(name + LORA_B)
        linear = modules.get(name)
        if not isinstance(linear, (nn.Linear, Conv1D)):
            raise CheckpointError(
                f"checkpoint {source}: tensor {name + LORA_A!r} belongs to no part of the model"
            )
        weight = linear.weight
        shape = tuple(weight.shape[::-1] if isinstance(linear, Conv1D) else weight.shape)
        _check_shapes(name, lora_a, lora_b, shape, source)
        parent, _, last = name.rpartition(".")
        beside = LoraLinear(linear, lora_a.to(weight.dtype), lora_b.to(weight.dtype), alpha / lora_a.shape[0])
        setattr(module.get_submodule(parent), last, beside)
        for part in ("weight", "bias"):
            if f"{name}.{part}" in rest:
                rest[f"{name}.base_layer.{part}"] = rest.pop(f"{name}.{part}")
        # Their values are demanded like any other's.
        rest[f"{name}.lora_A"], rest[f"{name}.lora_B"] = lora_a, lora_b
    return rest


def _check_shapes(linear: str, lora_a: Tensor, lora_b: Tensor, weight: tuple[int, ...], source: str) -> None:
    rank = lora_a.shape[0] if lora_a.dim() == 2 else 0
    for name, tensor, needed in (
        (linear + LORA_A, lora_a, (max(rank, 1), weight[1])),
        (linear + LORA_B, lora_b, (weight[0], max(rank, 1))),
    ):
        if tuple(tensor.shape) != needed:
            raise CheckpointError(
                f"checkpoint {source}: tensor {name!r} has shape {tuple(tensor.shape)}; {needed} is needed"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"checkpoint {source}: tensor {name!r} has dtype {tensor.dtype}; floats are needed"
            )
