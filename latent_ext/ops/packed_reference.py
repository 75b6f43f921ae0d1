"""Packed models in plain PyTorch: bytes back into matrices, and one pass of rows through them.

What the references of ``pack_linear``, ``read_prompts``, ``latent_rollout`` and ``decode_answers`` share. The layout
is that of ``csrc/cpu/packed_model.h`` and ``packed_linear.h``. The rows of a weight format are rounded as there, and
int8 products are exact; only the order of float32 sums is PyTorch's own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from latent_ext.ops import sites
from latent_ext.ops.dropout_add_norm import dropout_add_norm_reference
from latent_ext.ops.norms import norm_reference
from latent_ext.ops.philox import normals
from latent_ext.ops.prefix_decode_attention import prefix_decode_attention_reference

FORMATS = ("fp32", "bf16", "int8")
PANEL_WIDTH = 48  # outputs of a panel; the last one is cut to a multiple of OUTPUT_MULTIPLE
OUTPUT_MULTIPLE = 16
INPUTS_PER_WORD = {"fp32": 1, "bf16": 2, "int8": 4}
INT8_LARGEST = 127

_MAGIC, _VERSION = 0x4B50545845544C, 2
_NORMS = ("none", "layer", "rms")
_ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: functional.gelu(x, approximate="tanh"),
    functional.gelu,
    functional.silu,
    functional.relu,
)


@dataclass(frozen=True)
class Norm:
    """Parameters of a norm, as `latent_ext.ops.norms` takes them."""

    kind: str
    eps: float
    weight: Tensor | None
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return norm_reference(x, self.weight, self.bias, self.eps, self.kind)


@dataclass(frozen=True)
class Linear:
    """A linear layer of a packed model.

    Attributes:
        format: "fp32", "bf16" or "int8".
        weight: float32 [outputs, inputs]; for "int8" the integers.
        scales: float32 [outputs] for "int8", else None.
        bias: float32 [outputs] or None.
    """

    format: str
    weight: Tensor
    scales: Tensor | None
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, inputs] -> float32 [rows, outputs]."""
        if self.scales is None:
            met = x.to(torch.bfloat16).to(torch.float32) if self.format == "bf16" else x
            product = met @ self.weight.T
        else:
            integers, scale = quantised_rows(x)
            # float64 holds the sums of 16-bit products exactly
            sums = (integers.to(torch.float64) @ self.weight.to(torch.float64).T).to(torch.float32)
            product = sums * (scale.unsqueeze(1) * self.scales)
        return product if self.bias is None else product + self.bias


@dataclass(frozen=True)
class Layer:
    attention_norm: Norm
    query_key_value: Linear
    attention_output: Linear
    mlp_norm: Norm
    mlp_in: Linear
    mlp_out: Linear
    attention_scale: float


@dataclass(frozen=True)
class Spectrum:
    """W_V = left @ right of a layer; the rows of `right` are as long as the singular values."""

    right: Linear
    left: Linear


@dataclass(frozen=True)
class Model:
    """A packed model in pieces; shapes as in ``csrc/cpu/packed_model.h``.

    Attributes:
        stages: of the thought head, each with the activation behind it; `thought_norm` and `thought_scale` follow.
        lm_head, score_weight, score_bias: None where the model has none.
        spectra: of the layers; none where they are not packed.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    gated: bool
    activation: Callable[[Tensor], Tensor]
    drops_attention_output: bool
    inverse_frequencies: Tensor | None
    rotation_scale: float
    layers: list[Layer]
    final_norm: Norm
    lm_head: Linear | None
    stages: list[tuple[Linear | Norm, Callable[[Tensor], Tensor]]]
    thought_norm: Norm
    thought_scale: float
    score_weight: Tensor | None
    score_bias: Tensor | None
    spectra: list[Spectrum]


@dataclass(frozen=True)
class Dropout:
    """What one pass draws: dropout, with masks per position or per trajectory, and noise on singular values of W_V."""

    p: float
    per_trajectory: bool
    embedding: bool
    seed: Tensor
    svp: float = 0.0


def quantised_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with one scale each, the largest magnitude / 127: float32 integers, ties to even, and scales [rows]."""
    largest = x.abs().amax(dim=1)
    inverse = torch.where(largest > 0, INT8_LARGEST / largest, 0.0)
    return torch.round(x * inverse.unsqueeze(1)), largest / INT8_LARGEST


def packed_outputs(outputs: int) -> int:
    """`outputs` rounded up to what the panels hold."""
    return -(-outputs // OUTPUT_MULTIPLE) * OUTPUT_MULTIPLE


def panel_words(inputs: int, outputs: int, format: str) -> int:
    """32-bit words of all panels of a matrix."""
    return -(-inputs // INPUTS_PER_WORD[format]) * packed_outputs(outputs)


def panels_of(elements: Tensor, format: str) -> Tensor:
    """Elements [outputs, inputs] (float32, bfloat16 or int8) as the words of their panels, int32 [words]."""
    outputs, inputs = elements.shape
    per_word = INPUTS_PER_WORD[format]
    padding = (0, -inputs % per_word, 0, packed_outputs(outputs) - outputs)
    words = (
        functional.pad(elements, padding).contiguous().view(torch.int32)
    )  # [packed outputs, words of a row]
    return torch.cat([panel.T.reshape(-1) for panel in words.split(PANEL_WIDTH)])


def elements_of(panels: Tensor, inputs: int, outputs: int, format: str) -> Tensor:
    """The reverse of `panels_of`: float32, bfloat16 or int8 [outputs, inputs]."""
    words = panel_words(inputs, 1, format) // OUTPUT_MULTIPLE
    widths = [len(panel) for panel in torch.empty(packed_outputs(outputs)).split(PANEL_WIDTH)]
    parts = panels.split([words * width for width in widths])
    rows = torch.cat([part.view(words, width).T for part, width in zip(parts, widths, strict=True)])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[format]
    return rows.contiguous().view(dtype)[:outputs, :inputs]


def unpack(data: Tensor) -> Model:
    """The model in bytes uint8 [bytes] that `latent_ext.models.packed.pack` wrote.

    Raises:
        ValueError: if the bytes do not begin as a packed model of this version; nothing else is checked.
    """
    read = _Reader(data)
    if (read.number(), read.number()) != (_MAGIC, _VERSION):
        raise ValueError(f"model is not a packed model of version {_VERSION}")
    read.number()  # size in bytes
    layers, hidden, heads, kv_heads, head_dim, inner = (read.number() for _ in range(6))
    vocabulary, gated = read.number(), bool(read.number())
    activation, drops_attention_output = _ACTIVATIONS[read.number()], bool(read.number())
    inverse_frequencies, rotation_scale = read.section(head_dim // 2), read.real()
    body = [
        Layer(
            attention_norm=read.norm(hidden),
            query_key_value=read.linear(),
            attention_output=read.linear(),
            mlp_norm=read.norm(hidden),
            mlp_in=read.linear(),
            mlp_out=read.linear(),
            attention_scale=read.real(),
        )
        for _ in range(layers)
    ]
    assert body[0].mlp_out.weight.shape == (hidden, inner)
    return Model(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        gated=gated,
        activation=activation,
        drops_attention_output=drops_attention_output,
        inverse_frequencies=inverse_frequencies,
        rotation_scale=rotation_scale,
        layers=body,
        final_norm=read.norm(hidden),
        lm_head=read.linear() if vocabulary > 0 else None,
        stages=[read.stage() for _ in range(read.number())],
        thought_norm=read.norm(hidden),
        thought_scale=read.real(),
        score_weight=read.section(hidden),
        score_bias=read.section(1),
        spectra=[
            Spectrum(right=read.linear(), left=read.linear()) for _ in range(layers if read.number() else 0)
        ],
    )


class _Reader:
    """Reads the header's numbers in turn and follows its offsets."""

    def __init__(self, data: Tensor) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        self._at += 8
        return int(self._data[self._at - 8 : self._at].view(torch.int64).item())

    def real(self) -> float:
        return struct.unpack("<d", struct.pack("<q", self.number()))[0]

    def section(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
        offset = self.number()
        return self._data[offset : offset + 4 * count].view(dtype) if offset > 0 else None

    def norm(self, size: int) -> Norm:
        return Norm(_NORMS[self.number()], self.real(), self.section(size), self.section(size))

    def linear(self) -> Linear:
        format, inputs, outputs = FORMATS[self.number()], self.number(), self.number()
        panels = self.section(panel_words(inputs, outputs, format), torch.int32)
        assert panels is not None
        weight = elements_of(panels, inputs, outputs, format).to(torch.float32)
        scales = self.section(outputs)
        self.number()  # sums of weights, which undo the kernels' shift of int8 rows to unsigned bytes
        return Linear(format, weight, scales, self.section(outputs))

    def stage(self) -> tuple[Linear | Norm, Callable[[Tensor], Tensor]]:
        is_linear, size, activation = self.number() == 0, self.number(), _ACTIVATIONS[self.number()]
        return (self.linear() if is_linear else self.norm(size)), activation


Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query [rows, heads, head_dim], key and value [rows, kv_heads, head_dim]) -> context like query."""


def attend_with(
    model: Model,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prompt_index: Tensor,
    prompt_len: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    ancestry: Tensor,
    suffix_len: Tensor,
) -> Attend:
    """`prefix_decode_attention_reference` on every layer; its arguments, the caches with the layers as first axis."""

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return prefix_decode_attention_reference(
            query,
            key,
            value,
            prefix_key[layer],
            prefix_value[layer],
            prompt_index,
            prompt_len,
            suffix_key[layer],
            suffix_value[layer],
            ancestry,
            suffix_len,
            model.layers[layer].attention_scale,
        )

    return attend


def pass_rows(
    model: Model,
    position_embedding: Tensor | None,
    inputs: Tensor,
    positions: Tensor,
    keys: Tensor,
    attend: Attend,
    dropout: Dropout | None = None,
) -> Tensor:
    """Reads one input vector per row.

    Args:
        model: the body.
        position_embedding: float32 [positions, hidden], or None.
        inputs: float32 [rows, hidden].
        positions: int64 [rows].
        keys: int64 [rows], trajectory keys.
        attend: stores a layer's new keys and values and attends to what rows have read.
        dropout: None for a clean pass.

    Returns:
        float32 [rows, hidden], final-norm hidden states.
    """
    rows = len(inputs)
    fixed = dropout is not None and dropout.per_trajectory
    mask_positions = torch.full_like(positions, sites.FIXED) if fixed else positions
    seed = torch.zeros(1, dtype=torch.int64) if dropout is None else dropout.seed

    def add(branch: Tensor, residual: Tensor, norm: Norm, site: int, drops: bool) -> tuple[Tensor, Tensor]:
        p = dropout.p if dropout is not None and drops else 0.0
        return dropout_add_norm_reference(
            branch, residual, norm.weight, norm.bias, keys, mask_positions, seed,
            site=site, p=p, eps=norm.eps, norm=norm.kind,
        )  # fmt: skip

    norms = [norm for layer in model.layers for norm in (layer.attention_norm, layer.mlp_norm)]
    norms.append(model.final_norm)
    embedded = inputs if position_embedding is None else inputs + position_embedding[positions]
    residual, normed = add(
        embedded,
        torch.zeros_like(embedded),
        norms[0],
        sites.EMBEDDING,
        dropout is not None and dropout.embedding,
    )
    for index, layer in enumerate(model.layers):
        query, key, value = (
            part.reshape(rows, -1, model.head_dim)
            for part in layer.query_key_value(normed).split(
                [heads * model.head_dim for heads in (model.heads, model.kv_heads, model.kv_heads)], dim=1
            )
        )
        if dropout is not None and dropout.svp > 0.0:
            value = value + value_shift(model, index, normed, keys, dropout).reshape(value.shape)
        context = attend(index, rotated(model, query, positions), rotated(model, key, positions), value)
        branch = layer.attention_output(context.reshape(rows, -1))
        site = sites.layer_site(index, sites.ATTENTION_OUTPUT)
        residual, normed = add(branch, residual, norms[2 * index + 1], site, model.drops_attention_output)
        inner = layer.mlp_in(normed)
        if model.gated:
            gate, up = inner.chunk(2, dim=1)
            inner = model.activation(gate) * up
        else:
            inner = model.activation(inner)
        site = sites.layer_site(index, sites.MLP_OUTPUT)
        residual, normed = add(layer.mlp_out(inner), residual, norms[2 * index + 2], site, True)
    return normed


def value_shift(model: Model, layer: int, normed: Tensor, keys: Tensor, dropout: Dropout) -> Tensor:
    """By how much SVP moves the values of a layer, float32 [rows, kv_heads * head_dim]."""
    spectrum = model.spectra[layer]
    along = spectrum.right(normed)
    site = sites.layer_site(layer, sites.VALUE_NOISE)
    normal = normals(dropout.seed, keys, sites.FIXED, site, along.shape[1])
    return spectrum.left(along * (dropout.svp * normal))


def rotated(model: Model, x: Tensor, positions: Tensor) -> Tensor:
    """x [rows, heads, head_dim] rotated by positions, the two halves of a head paired; x itself without rotation.

    Source: J. Su et al., "RoFormer", 2021, in the order of Hugging Face's Llama.
    """
    if model.inverse_frequencies is None:
        return x
    # The angle in float32, as Hugging Face's rotary embedding computes it.
    angle = (positions.to(torch.float32).unsqueeze(1) * model.inverse_frequencies).to(torch.float64)
    cosine, sine = (
        (values.to(torch.float32) * model.rotation_scale).unsqueeze(1)
        for values in (angle.cos(), angle.sin())
    )
    first, second = x.chunk(2, dim=2)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=2)
