"""A model packed for engine="native": every linear layer, all of it in one block of bytes.

The format is that of ``csrc/cpu/packed_model.h``, which reads it: an int64 header, then sections at multiples of
64 bytes. Weights lie in panels for the CPU, and row by row, as PyTorch stores them, for CUDA. The embedding tables
are not packed; they stay the model's own.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import GPT2Model, LlamaModel, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from latent_ext.models.blocks import Blocks, blocks_of
from latent_ext.models.family import HeadStage, ThoughtHead
from latent_ext.models.norm import Norm
from latent_ext.models.value_projection import value_spectrum
from latent_ext.ops import sites

Weights = Literal["fp32", "bf16", "int8"]
Layout = Literal["panels", "rows"]
WEIGHTS: tuple[str, ...] = get_args(Weights)

_MAGIC = 0x4B50545845544C
_VERSION = 2
_ALIGNMENT = 64
_PANEL_ALIGNMENT = 16  # outputs of a panel
# By layout and weights; int8 is for the CPU alone.
_FORMATS = {
    ("panels", "fp32"): 0, ("panels", "bf16"): 1, ("panels", "int8"): 2, ("rows", "fp32"): 3, ("rows", "bf16"): 4
}  # fmt: skip
_NORMS = {"none": 0, "layer": 1, "rms": 2}
_ACTIVATIONS = {"none": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu": 2, "silu": 3, "swish": 3, "relu": 4}


@dataclass(frozen=True)
class PackedModel:
    """A body with its heads, ready for the ops ``read_prompts``, ``latent_rollout`` and ``decode_answers``.

    Attributes:
        data: uint8 [bytes], on the device of the body.
        token_embedding: float32 [vocabulary, hidden].
        position_embedding: float32 [positions, hidden]; None where positions rotate queries and keys.
        weights: "fp32", "bf16" or "int8".
        layers, kv_heads, head_dim: shape of a cache.
        header: int64 on the CPU, what the host has to know of `data`, which may be on a device; None for panels.
        cache_dtype: of caches.
        spectra: whether the spectra of W_V are packed, which singular-value noise needs.
    """

    data: Tensor
    token_embedding: Tensor
    position_embedding: Tensor | None
    weights: str
    layers: int
    kv_heads: int
    head_dim: int
    header: Tensor | None = None
    cache_dtype: torch.dtype = torch.float32
    spectra: bool = False

    def new_cache(self, entries: int, positions: int) -> Tensor:
        """Uninitialised [layers, entries, kv_heads, positions, head_dim], `cache_dtype`, beside `data`."""
        shape = (self.layers, entries, self.kv_heads, positions, self.head_dim)
        return torch.empty(shape, dtype=self.cache_dtype, device=self.data.device)

    def save(self, path: str | Path) -> None:
        """Writes the packed bytes as safetensors, to be read by `load_packed` with the same model."""
        from safetensors.torch import save_file

        save_file({"packed": self.data}, path, metadata={"format": "pt", "weights": self.weights})


def why_not_packable(body: PreTrainedModel, head: ThoughtHead | None = None) -> str | None:
    """One sentence why `body` cannot be packed, or None if it can."""
    if not isinstance(body, (GPT2Model, LlamaModel)):
        return f"{type(body).__name__} is neither a GPT2Model nor a LlamaModel"
    activation = activation_name(body)
    if activation not in _ACTIVATIONS:
        return f"its activation {activation!r} is none of {', '.join(_ACTIVATIONS)}"
    for name, module in body.named_modules():
        if name.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc") and type(module) is not Conv1D:
            return f"{name} is a {type(module).__name__}, not a Conv1D"
        if name.endswith("_proj") and isinstance(body, LlamaModel) and type(module) is not nn.Linear:
            return f"{name} is a {type(module).__name__}, not a Linear"
    if isinstance(body, LlamaModel) and body.rotary_emb.rope_type not in ("default", "linear", "llama3"):
        return f"its rotary type {body.rotary_emb.rope_type!r} changes with the length of the input"
    devices = {parameter.device for parameter in body.parameters()}
    if len(devices) > 1 or next(iter(devices)).type not in ("cpu", "cuda"):
        return f"it is on {', '.join(sorted(map(str, devices)))}, not on one CPU or CUDA device"
    if head is not None and not _stages_fuse(head):
        return "its thought head has a GELU that does not follow a linear layer"
    if head is not None and head.log_std is not None:
        return "its thought head is Gaussian"
    return None


def pack(
    body: PreTrainedModel,
    *,
    weights: str = "fp32",
    lm_head: Tensor | None = None,
    head: ThoughtHead | None = None,
    score: tuple[Tensor, Tensor] | None = None,
    layout: Layout | None = None,
    spectra: bool = False,
) -> PackedModel:
    """Packs a body with what stands on it; a second call with unchanged weights returns the first one's result.

    Args:
        body: a ``GPT2Model`` or ``LlamaModel`` that `why_not_packable` has nothing against.
        weights: "fp32"; "bf16" (weights and the rows they meet are rounded to bfloat16, sums are float32); "int8"
            (weights with one scale per output, rows with one scale each, sums exact in 32 bits; the LM head and
            the thought head are bf16; on the CPU alone).
        lm_head: (vocabulary, hidden), or None.
        head: how the next thought is formed; None for a body that forms none.
        score: (hidden,) weight and (1,) bias of a LatentRM, or None.
        layout: "panels" for the ops on the CPU, "rows" for those on CUDA; by default as the body's device wants it.
        spectra: also pack the singular vectors and values of every layer's W_V (for "panels" alone), fp32 or bf16 (the
            latter for int8, too). A model that was packed with them serves those who do not ask for them.

    Raises:
        ValueError: for another `weights`, spectra in rows, or a model that cannot be packed.
    """
    layout = layout or ("panels" if body.device.type == "cpu" else "rows")
    if (layout, weights) not in _FORMATS:
        allowed = [name for of, name in _FORMATS if of == layout]
        raise ValueError(f"weights: got {weights!r}; allowed are {', '.join(allowed)} on {body.device}")
    if spectra and layout != "panels":
        raise ValueError("spectra: got True; they are packed for the CPU alone")
    reason = why_not_packable(body, head)
    if reason is not None:
        raise ValueError(f"model: cannot be packed: {reason}")
    # Parameters that are changed in place count their versions; replaced ones have another address.
    tensors = [
        *body.parameters(),
        *(score or ()),
        *([] if lm_head is None else [lm_head]),
        *_head_tensors(head),
    ]
    state = tuple((tensor.data_ptr(), tensor._version, tensor.shape) for tensor in tensors)
    known = _PACKED.setdefault(body, {})
    kind = (weights, layout)
    same = kind in known and known[kind][0] == state
    if not same or (spectra and not known[kind][1].spectra):
        known[kind] = (state, _pack(body, weights, layout, lm_head, head or ThoughtHead(), score, spectra))
    return known[kind][1]


def load_packed(packed: PackedModel, path: str | Path) -> PackedModel:
    """`packed` with the bytes of a file that `PackedModel.save` wrote for the same model.

    Raises:
        ValueError: if the file holds no packed model of the same size.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        data = load_file(path)["packed"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"path: {path} holds no packed model: {error}") from None
    if data.dtype != torch.uint8 or data.shape != packed.data.shape:
        raise ValueError(
            f"path: {path} holds {data.dtype} {tuple(data.shape)}; uint8 {tuple(packed.data.shape)} is needed"
        )
    return PackedModel(**{**packed.__dict__, "data": data})


_PACKED: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, str], tuple[Any, PackedModel]]] = (
    weakref.WeakKeyDictionary()
)


class _Writer:
    """Collects the header and the sections, then writes both."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._layout, self._device = layout, device
        self._header: list[int | tuple[int]] = []
        self._sections: list[tuple[int, Callable[[Tensor], None]]] = []

    def number(self, *values: int) -> None:
        self._header += values

    def real(self, value: float) -> None:
        self._header.append(struct.unpack("<q", struct.pack("<d", value))[0])

    def section(self, tensor: Tensor | None) -> None:
        if tensor is None:
            self.number(0)
            return
        values = tensor.detach().to(self._device, torch.float32).contiguous().reshape(-1)
        self._section(4 * values.numel(), lambda room: room.view(torch.float32).copy_(values))

    def _section(self, size: int, fill: Callable[[Tensor], Any]) -> None:
        self._header.append((len(self._sections),))
        self._sections.append((size, fill))

    def norm(self, norm: Norm) -> None:
        self.number(_NORMS[norm.kind])
        self.real(norm.eps)
        self.section(norm.weight)
        self.section(norm.bias)

    def linear(self, weight: Tensor, bias: Tensor | None, weights: str) -> None:
        """weight (outputs, inputs)."""
        outputs, inputs = weight.shape
        self.number(_FORMATS[self._layout, weights], inputs, outputs)
        if self._layout == "rows":
            dtype = torch.float32 if weights == "fp32" else torch.bfloat16
            source = weight.detach()
            self._section(
                outputs * inputs * dtype.itemsize,
                lambda room: room.view(dtype).view(outputs, inputs).copy_(source),
            )
            self.number(0, 0)
            self.section(bias)
            return
        matrix = weight.detach().to("cpu", torch.float32).contiguous()
        per_word = {"fp32": 1, "bf16": 2, "int8": 4}[weights]
        packed = -(-outputs // _PANEL_ALIGNMENT) * _PANEL_ALIGNMENT
        words = -(-inputs // per_word) * packed
        if weights == "int8":
            panels = torch.empty(words, dtype=torch.int32)
            scales, sums = torch.empty(packed), torch.empty(packed, dtype=torch.int32)
            torch.ops.latent_ext.pack_linear(matrix, weights, panels, scales, sums)
            for part in (panels, scales, sums):
                as_bytes = part.view(torch.uint8)
                self._section(as_bytes.numel(), lambda room, of=as_bytes: room.copy_(of))  # type: ignore[misc]
        else:
            self._section(
                4 * words,
                lambda room: torch.ops.latent_ext.pack_linear(
                    matrix, weights, room.view(torch.int32), None, None
                ),
            )
            self.number(0, 0)
        self.section(bias)

    def write(self) -> tuple[Tensor, Tensor]:
        """uint8 [bytes], and its int64 header on the CPU."""
        offset = 8 * (len(self._header) + 3)
        offsets = []
        for size, _ in self._sections:
            offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
            offsets.append(offset)
            offset += size
        offset = -(-offset // 4) * 4  # sections are counted in words of 4 bytes
        data = torch.zeros(offset, dtype=torch.uint8, device=self._device)
        numbers = [_MAGIC, _VERSION, offset]
        numbers += [offsets[entry[0]] if isinstance(entry, tuple) else entry for entry in self._header]
        header = torch.tensor(numbers, dtype=torch.int64)
        data[: 8 * len(header)].view(torch.int64).copy_(header)
        for (size, fill), start in zip(self._sections, offsets, strict=True):
            fill(data[start : start + size])
        return data, header


def _pack(
    body: PreTrainedModel,
    weights: str,
    layout: Layout,
    lm_head: Tensor | None,
    head: ThoughtHead,
    score: tuple[Tensor, Tensor] | None,
    spectra: bool,
) -> PackedModel:
    blocks, config = blocks_of(body), body.config
    outer = "bf16" if weights == "int8" else weights
    llama = isinstance(body, LlamaModel)
    inner = int(config.intermediate_size) if llama else int(config.n_inner or 4 * config.n_embd)
    writer = _Writer(layout, body.device)
    writer.number(blocks.layers, blocks.hidden_size, blocks.heads, blocks.kv_heads, blocks.head_dim, inner)
    writer.number(0 if lm_head is None else lm_head.shape[0], int(llama), _ACTIVATIONS[activation_name(body)])
    writer.number(int(sites.ATTENTION_OUTPUT in blocks.dropout_sites))
    writer.section(body.rotary_emb.inv_freq if isinstance(body, LlamaModel) else None)
    writer.real(float(body.rotary_emb.attention_scaling) if isinstance(body, LlamaModel) else 1.0)
    for layer in range(blocks.layers):
        query_key_value, attention_output, mlp_in, mlp_out = layer_linears(body, layer)
        writer.norm(blocks.norms[2 * layer])
        writer.linear(*query_key_value, weights)
        writer.linear(*attention_output, weights)
        writer.norm(blocks.norms[2 * layer + 1])
        writer.linear(*mlp_in, weights)
        writer.linear(*mlp_out, weights)
        writer.real(blocks.scales[layer])
    writer.norm(blocks.norms[-1])
    if lm_head is not None:
        writer.linear(lm_head, None, outer)
    _write_head(writer, head, blocks, outer)
    writer.section(None if score is None else score[0])
    writer.section(None if score is None else score[1])
    writer.number(min(blocks.hidden_size, blocks.kv_heads * blocks.head_dim) if spectra else 0)
    for layer in range(blocks.layers if spectra else 0):
        spectrum = value_spectrum(body, layer)
        writer.linear(spectrum.right, None, outer)
        writer.linear(spectrum.left, None, outer)
    embedding: Any = body.get_input_embeddings()  # typed as any module
    positions = body.wpe.weight.detach().to(torch.float32) if isinstance(body, GPT2Model) else None
    data, header = writer.write()
    return PackedModel(
        data=data,
        token_embedding=embedding.weight.detach().to(torch.float32),
        position_embedding=positions,
        weights=weights,
        layers=blocks.layers,
        kv_heads=blocks.kv_heads,
        head_dim=blocks.head_dim,
        header=None if layout == "panels" else header,
        cache_dtype=torch.bfloat16 if (layout, weights) == ("rows", "bf16") else torch.float32,
        spectra=spectra,
    )


def _write_head(writer: _Writer, head: ThoughtHead, blocks: Blocks, weights: str) -> None:
    stages = _fused_stages(head)
    writer.number(len(stages))
    width = blocks.hidden_size
    for stage, gelu in stages:
        linear = stage.kind == "linear"
        if linear:
            assert stage.weight is not None
            width = stage.weight.shape[0]
        writer.number(int(not linear), width, _ACTIVATIONS["gelu"] if gelu else 0)
        if linear:
            assert stage.weight is not None
            writer.linear(stage.weight, stage.bias, weights)
        else:
            _write_optional_norm(writer, "layer", stage.weight, stage.bias, stage.eps)
    _write_optional_norm(writer, head.norm, head.weight, head.bias, head.eps)
    writer.real(head.scale)


def _write_optional_norm(
    writer: _Writer, kind: str, weight: Tensor | None, bias: Tensor | None, eps: float
) -> None:
    writer.number(_NORMS[kind])
    writer.real(eps)
    writer.section(weight)
    writer.section(bias)


def _fused_stages(head: ThoughtHead) -> list[tuple[HeadStage, bool]]:
    """Stages without GELUs, each with whether one follows."""
    stages: list[tuple[HeadStage, bool]] = []
    for stage in head.stages:
        if stage.kind == "gelu":
            stages[-1] = (stages[-1][0], True)
        else:
            stages.append((stage, False))
    return stages


def _stages_fuse(head: ThoughtHead) -> bool:
    previous = None
    for stage in head.stages:
        if stage.kind == "gelu" and previous != "linear":
            return False
        previous = stage.kind
    return True


def _head_tensors(head: ThoughtHead | None) -> list[Tensor]:
    if head is None:
        return []
    tensors = [head.weight, head.bias]
    for stage in head.stages:
        tensors += [stage.weight, stage.bias]
    return [tensor for tensor in tensors if tensor is not None]


def activation_name(body: PreTrainedModel) -> str:
    """What the config calls the activation of the MLP."""
    return str(body.config.hidden_act if isinstance(body, LlamaModel) else body.config.activation_function)


def layer_linears(body: PreTrainedModel, layer: int) -> list[tuple[Tensor, Tensor | None]]:
    """Weight (outputs, inputs) and bias of query-key-value, attention output, MLP in, MLP out."""
    if isinstance(body, GPT2Model):
        gpt2: Any = body.h[layer]
        modules = (gpt2.attn.c_attn, gpt2.attn.c_proj, gpt2.mlp.c_fc, gpt2.mlp.c_proj)
        return [(module.weight.t(), module.bias) for module in modules]
    llama: Any = body
    block = llama.layers[layer]
    attention, mlp = block.self_attn, block.mlp

    def joined(*modules: nn.Linear) -> tuple[Tensor, Tensor | None]:
        biases: list[Tensor] = [module.bias for module in modules if module.bias is not None]
        weights: list[Tensor] = [module.weight for module in modules]
        return torch.cat(weights), torch.cat(biases) if biases else None

    return [
        joined(attention.q_proj, attention.k_proj, attention.v_proj),
        joined(attention.o_proj),
        joined(mlp.gate_proj, mlp.up_proj),
        joined(mlp.down_proj),
    ]
