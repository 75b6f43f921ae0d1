"""The value projection W_V of a layer, and its spectrum: what samplers on W_V perturb."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Model, LlamaModel, PreTrainedModel, Qwen2Model
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class ValueSpectrum:
    """W_V = left @ right, with the singular values, largest first, as the lengths of the rows of `right`.

    Attributes:
        left: float32 (values, rank), orthonormal columns.
        right: float32 (rank, hidden), orthogonal rows.
    """

    left: Tensor
    right: Tensor


# By the module that holds W_V: its weight's address and version, and the spectrum.
_SPECTRA: weakref.WeakKeyDictionary[nn.Module, tuple[Any, ValueSpectrum]] = weakref.WeakKeyDictionary()


def value_module(body: PreTrainedModel, layer: int) -> nn.Module:
    """The module whose last outputs are the values: GPT-2's ``c_attn``, else ``v_proj``.

    Raises:
        ValueError: if its weight is not a plain matrix, as under an adapter or quantisation.
        TypeError: for a body that is none of GPT2Model, LlamaModel and Qwen2Model.
    """
    found: Any = body
    plain: type[nn.Module]
    if isinstance(body, GPT2Model):
        module, plain = found.h[layer].attn.c_attn, Conv1D
    elif isinstance(body, (LlamaModel, Qwen2Model)):
        module, plain = found.layers[layer].self_attn.v_proj, nn.Linear
    else:
        raise TypeError(f"body: got {type(body).__name__}; allowed are GPT2Model, LlamaModel, Qwen2Model")
    if type(module) is not plain:
        raise ValueError(
            f"sampler: svp and wv need layer {layer}'s value projection as a plain {plain.__name__}, "
            f"got {type(module).__name__}; merge adapters into the weights first"
        )
    return module


def value_weight(body: PreTrainedModel, layer: int) -> Tensor:
    """W_V, (values, hidden): one row per feature of each key-value head.

    Raises:
        ValueError, TypeError: as `value_module`.
    """
    weight: Any = value_module(body, layer).weight
    return weight.t()[2 * weight.shape[0] :] if isinstance(body, GPT2Model) else weight


def value_bias(body: PreTrainedModel, layer: int) -> Tensor | None:
    """What is added to the values, (values,), or None.

    Raises:
        ValueError, TypeError: as `value_module`.
    """
    module: Any = value_module(body, layer)
    return module.bias[2 * module.weight.shape[0] :] if isinstance(body, GPT2Model) else module.bias


@torch.no_grad()
def value_spectrum(body: PreTrainedModel, layer: int) -> ValueSpectrum:
    """Singular vectors and values of a layer's W_V, on its device; kept until the weight changes.

    Decomposed in float64 on the CPU by one thread, so that the number of threads changes no bit; of each column of
    `left` the entry of largest magnitude (the first of several) is positive.

    Raises:
        ValueError: as `value_module`, and for a weight that is not finite.
        TypeError: as `value_module`.
    """
    module = value_module(body, layer)
    weight: Any = module.weight
    state = (weight.data_ptr(), weight._version, weight.shape, weight.device)
    known = _SPECTRA.get(module)
    if known is not None and known[0] == state:
        return known[1]
    matrix = value_weight(body, layer).detach().to("cpu", torch.float64).contiguous()
    if not matrix.isfinite().all():
        raise ValueError(f"sampler: svp needs finite weights; layer {layer}'s W_V has others")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    finally:
        torch.set_num_threads(threads)
    leading = left.gather(0, left.abs().argmax(dim=0, keepdim=True))
    sign = torch.where(leading < 0, -1.0, 1.0).to(torch.float64)
    left, right = left * sign, right * (sign * values).t()
    spectrum = ValueSpectrum(
        left.to(weight.device, torch.float32).contiguous(),
        right.to(weight.device, torch.float32).contiguous(),
    )
    _SPECTRA[module] = (state, spectrum)
    return spectrum
