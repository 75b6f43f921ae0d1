"""The pieces of a body for engine="native" on CUDA: joined linears in the format that is asked for, few launches.

Queries, keys and values are one product, as are Llama's gate and up; an activation is one launch; a pass computes its
rotary angles once. Weights that are in the wanted format already are used where they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaModel, PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from latent_ext.engine.cuda_capture import Shelf
from latent_ext.models.blocks import Blocks, blocks_of
from latent_ext.models.norm import Norm
from latent_ext.models.packed import activation_name, layer_linears

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# Prompts, latent phases and answers together.
_CAPTURED_SHAPES = 24

_Activation = Callable[[Tensor], Tensor]


def _tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, _Activation] = {
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "swish": functional.silu,
    "relu": functional.relu,
}


class CudaBlocks:
    """A GPT-2 or Llama body in pieces (`latent_ext.models.blocks.Blocks`).

    Args:
        body: that `latent_ext.models.packed.why_not_packable` has nothing against, on the device it will run on.
        dtype: float32 or bfloat16: format of the weights, and of everything between them.
    """

    def __init__(self, body: PreTrainedModel, dtype: torch.dtype) -> None:
        own: Blocks = blocks_of(body)
        self.layers, self.hidden_size = own.layers, own.hidden_size
        self.heads, self.kv_heads, self.head_dim = own.heads, own.kv_heads, own.head_dim
        self.max_positions, self.scales, self.dropout_sites = own.max_positions, own.scales, own.dropout_sites
        self.dtype = dtype

        # By address, with what was copied: as long as that is held, nothing else comes to be at its address.
        self._copies: dict[tuple[int, torch.Size], tuple[Tensor, Tensor]] = {}
        self.norms = [Norm(n.kind, self.cast(n.weight), self.cast(n.bias), n.eps) for n in own.norms]
        # Joined linears are made for this; nothing is gained by holding them.
        self._linears = [
            [
                (weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype))
                for weight, bias in layer_linears(body, layer)
            ]
            for layer in range(own.layers)
        ]
        # What was captured over these pieces, by the files that capture it.
        self.captured: Shelf[Any] = Shelf(_CAPTURED_SHAPES)
        self._activation = _ACTIVATIONS[activation_name(body)]
        embedding: Any = body.get_input_embeddings()  # typed as any module
        self._token_table = self.cast(embedding.weight)
        self._rotary: nn.Module | None = None
        self._rotation: tuple[Tensor, Tensor] | None = None  # of the pass that is under way
        if isinstance(body, LlamaModel):
            self._rotary, self._position_table = body.rotary_emb, None
        else:
            positions: Any = body.get_submodule("wpe")
            self._position_table = self.cast(positions.weight)

    @property
    def device(self) -> torch.device:
        return self._token_table.device

    @overload
    def cast(self, tensor: Tensor) -> Tensor: ...
    @overload
    def cast(self, tensor: Tensor | None) -> Tensor | None: ...
    def cast(self, tensor: Tensor | None) -> Tensor | None:
        """A weight in the format of these pieces: itself, or the one copy of it that is kept."""
        if tensor is None or tensor.dtype == self.dtype:
            return None if tensor is None else tensor.detach()
        key = (tensor.data_ptr(), tensor.shape)
        if key not in self._copies:
            source = tensor.detach()
            self._copies[key] = (source, source.to(self.dtype))
        return self._copies[key][1]

    def token_embedding(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self._token_table)

    def embed(self, inputs: Tensor, positions: Tensor) -> Tensor:
        if self._position_table is None:
            return inputs
        return inputs + functional.embedding(positions, self._position_table)

    def query_key_value(self, layer: int, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined = functional.linear(normed, *self._linears[layer][0])
        heads = joined.reshape(normed.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        turned = heads[:, : self.heads + self.kv_heads]
        if self._rotary is not None:
            if layer == 0:
                cosine, sine = self._rotary(normed, position_ids=positions.unsqueeze(0))
                self._rotation = (cosine[0], sine[0])
            assert self._rotation is not None
            turned, _ = apply_rotary_pos_emb(turned, turned[:, :0], *self._rotation)
        return turned[:, : self.heads], turned[:, self.heads :], heads[:, self.heads + self.kv_heads :]

    def attention_output(self, layer: int, context: Tensor) -> Tensor:
        return functional.linear(context.flatten(1), *self._linears[layer][1])

    def mlp(self, layer: int, normed: Tensor) -> Tensor:
        inner = functional.linear(normed, *self._linears[layer][2])
        if self._rotary is None:
            inner = self._activation(inner)
        else:
            gate, up = inner.chunk(2, dim=1)
            inner = self._activation(gate) * up
        return functional.linear(inner, *self._linears[layer][3])


def cuda_blocks(body: PreTrainedModel, weights: str, beside: Iterable[Tensor | None] = ()) -> CudaBlocks:
    """The pieces of `body`; a second call with unchanged weights returns the first one's, with all that was captured.

    Args:
        body: as `CudaBlocks` takes it.
        weights: "fp32" or "bf16".
        beside: further tensors that captures over these pieces read (heads): none is kept when one of them changes.

    Raises:
        ValueError: for another format.
    """
    if weights not in DTYPES:
        raise ValueError(f"weights: got {weights!r}; allowed on CUDA are {', '.join(DTYPES)}")
    tensors = [*body.parameters(), *(tensor for tensor in beside if tensor is not None)]
    # Parameters that are changed in place count their versions; replaced ones have another address.
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
    known = _BLOCKS.setdefault(body, {})
    if weights not in known or known[weights][0] != state:
        known[weights] = (state, CudaBlocks(body, DTYPES[weights]))
    return known[weights][1]


_BLOCKS: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[Any, CudaBlocks]]] = weakref.WeakKeyDictionary()
