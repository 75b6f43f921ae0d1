"""GPT-2 with a latent roll-out, written for fast training on a CPU.

The weights are those of Hugging Face's `GPT2LMHeadModel`, by the same names without the prefix
`transformer.`. One training example is read in three parts that share one cache: the prompt in one pass,
the six thoughts one by one, and several tails (the rest of the chain after k thoughts, and the answer) side
by side in one pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; `positions` bounds prompt + thoughts + longest tail."""

    vocabulary: int
    layers: int
    hidden: int
    heads: int
    positions: int


def initial_weights(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Random weights by Hugging Face name, float32; Conv1D matrices are stored [in, out]."""
    generator = torch.Generator().manual_seed(seed)
    d = shape.hidden

    def normal(*size: int, std: float) -> Tensor:
        return torch.randn(*size, generator=generator) * std

    weights = {
        "wte.weight": normal(shape.vocabulary, d, std=0.05),
        "wpe.weight": normal(shape.positions, d, std=0.05),
    }
    for layer in range(shape.layers):
        h = f"h.{layer}."
        out_std = 0.02 / math.sqrt(2 * shape.layers)
        matrices = {
            "attn.c_attn": (d, 3 * d, 0.02),
            "attn.c_proj": (d, d, out_std),
            "mlp.c_fc": (d, 4 * d, 0.02),
            "mlp.c_proj": (4 * d, d, out_std),
        }
        for norm in ("ln_1", "ln_2"):
            weights[f"{h}{norm}.weight"], weights[f"{h}{norm}.bias"] = torch.ones(d), torch.zeros(d)
        for name, (n_in, n_out, std) in matrices.items():
            weights[f"{h}{name}.weight"], weights[f"{h}{name}.bias"] = (
                normal(n_in, n_out, std=std),
                torch.zeros(n_out),
            )
    weights["ln_f.weight"], weights["ln_f.bias"] = torch.ones(d), torch.zeros(d)
    return weights


class MaskPool:
    """Dropout masks cut from one block of pre-drawn values: drawing anew costs more than the layers do.

    Args:
        p: probability of dropping, in [0, 1); 0 makes `drop` the identity.
        dtype: of the activations.
        size: values in the pool.
        seed: of the pool and of the offsets.
    """

    def __init__(self, p: float, dtype: torch.dtype, size: int, seed: int) -> None:
        self.p = p
        self.generator = torch.Generator().manual_seed(seed)
        keep = torch.rand(size if p > 0 else 0, generator=self.generator) >= p
        self.pool = (keep.float() / (1 - p)).to(dtype)

    def drop(self, x: Tensor) -> Tensor:
        """Multiplies x by a mask of its shape, starting at a random place of the pool."""
        if self.p == 0:
            return x
        room = self.pool.numel() - x.numel()
        if room < 0:
            raise ValueError(f"the pool holds {self.pool.numel()} values, {x.numel()} are needed")
        offset = int(torch.randint(room + 1, (1,), generator=self.generator))
        return x * self.pool[offset : offset + x.numel()].view(x.shape)


class Network:
    """Forward passes over a dict of weights.

    Args:
        weights: as `initial_weights` returns; embeddings in float32, the rest in the dtype of the
            activations.
        shape: sizes.
        masks: dropout on embeddings and on both residual branches of every layer, none on attention weights.
    """

    def __init__(self, weights: dict[str, Tensor], shape: Shape, masks: MaskPool) -> None:
        self.weights, self.shape, self.masks = weights, shape, masks
        self.dtype = weights["ln_f.weight"].dtype
        self.head_dim = shape.hidden // shape.heads

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids and positions int64 [...]; returns [..., hidden] after embedding dropout."""
        x = F.embedding(ids, self.weights["wte.weight"]) + F.embedding(positions, self.weights["wpe.weight"])
        return self.masks.drop(x.to(self.dtype))

    def logits(self, x: Tensor) -> Tensor:
        """x [..., hidden], already normed; returns [..., vocabulary] in the activations' dtype."""
        return F.linear(x, self.weights["wte.weight"].to(self.dtype))

    def prompt(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Reads the prompts.

        Args:
            ids: int64 [rows, longest], padded on the right.
            lengths: int64 [rows].

        Returns:
            the normed hidden state at each last token [rows, hidden] (the first thought), and per layer the
            keys and values [rows, heads, longest, head_dim].
        """
        rows, longest = ids.shape
        x = self.embed(ids, torch.arange(longest).expand(rows, longest))
        bias = torch.full((longest, longest), float("-inf")).triu_(1).to(self.dtype)
        cache = []
        for layer in range(self.shape.layers):
            x, key, value = self._block(layer, x, None, bias)
            cache.append((key, value))
        last = x[torch.arange(rows), lengths - 1]
        return self.normed("ln_f", last), cache

    def think(
        self,
        first: Tensor,
        cache: list[tuple[Tensor, Tensor]],
        lengths: Tensor,
        hidden_bias: Tensor,
        steps: int,
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Feeds `steps` thoughts back, one at a time.

        Args:
            first: [rows, hidden], the first thought.
            cache: of the prompt, as `prompt` returns.
            lengths: int64 [rows], prompt lengths: thought t stands at position lengths + t.
            hidden_bias: [rows, 1, longest], 0 for prompt tokens and -inf for padding.
            steps: how many thoughts are fed.

        Returns:
            the thoughts, steps x [rows, hidden], and per layer the keys and values of the thoughts
            [rows, heads, steps, head_dim].
        """
        rows = first.shape[0]
        heads, head_dim = self.shape.heads, self.head_dim
        thoughts = [first]
        keys: list[list[Tensor]] = [[] for _ in range(self.shape.layers)]
        values: list[list[Tensor]] = [[] for _ in range(self.shape.layers)]
        for step in range(steps):
            place = F.embedding(lengths + step, self.weights["wpe.weight"]).to(self.dtype)
            x = self.masks.drop(thoughts[-1] + place)
            for layer in range(self.shape.layers):
                h = f"h.{layer}."
                qkv = self._linear(h + "attn.c_attn", self.normed(h + "ln_1", x)).view(
                    rows, 3, heads, head_dim
                )
                query = (qkv[:, 0] * (1 / math.sqrt(head_dim))).unsqueeze(2)
                keys[layer].append(qkv[:, 1])
                values[layer].append(qkv[:, 2])
                key, value = torch.stack(keys[layer], 2), torch.stack(values[layer], 2)
                prompt_key, prompt_value = cache[layer]
                scores = torch.cat(
                    [(query * prompt_key).sum(-1) + hidden_bias, (query * key).sum(-1)], dim=-1
                )  # [rows, heads, longest + step + 1]
                weights = scores.softmax(-1).unsqueeze(-1)
                longest = prompt_key.shape[2]
                mixed = (weights[:, :, :longest] * prompt_value).sum(2) + (
                    weights[:, :, longest:] * value
                ).sum(2)
                x = self.residuals(layer, x, mixed.reshape(rows, -1))
            if step + 1 < steps:
                thoughts.append(self.normed("ln_f", x))
        return thoughts, [(torch.stack(k, 2), torch.stack(v, 2)) for k, v in zip(keys, values, strict=True)]

    def tails(
        self,
        ids: Tensor,
        positions: Tensor,
        cache: list[tuple[Tensor, Tensor]],
        thought_cache: list[tuple[Tensor, Tensor]],
        bias: Tensor,
    ) -> Tensor:
        """Reads several tails side by side.

        Args:
            ids, positions: int64 [rows, length].
            cache, thought_cache: as `prompt` and `think` return.
            bias: [rows, 1, length, longest + steps + length], 0 where a token may look and -inf elsewhere.

        Returns:
            logits [rows, length, vocabulary].
        """
        x = self.embed(ids, positions)
        for layer in range(self.shape.layers):
            prefix = [torch.cat(pair, 2) for pair in zip(cache[layer], thought_cache[layer], strict=True)]
            x, _, _ = self._block(layer, x, prefix, bias)
        return self.logits(self.normed("ln_f", x))

    def _block(
        self, layer: int, x: Tensor, prefix: list[Tensor] | None, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, length, _ = x.shape
        query, key, value = self.heads_of(layer, x)
        all_keys, all_values = key, value
        if prefix is not None:
            all_keys, all_values = torch.cat([prefix[0], key], 2), torch.cat([prefix[1], value], 2)
        scores = (query * (1 / math.sqrt(self.head_dim))) @ all_keys.transpose(-1, -2) + bias
        mixed = (scores.softmax(-1) @ all_values).transpose(1, 2).reshape(rows, length, -1)
        return self.residuals(layer, x, mixed), key, value

    def heads_of(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x [..., length, hidden], each [..., heads, length, head_dim]."""
        h = f"h.{layer}."
        qkv = self._linear(h + "attn.c_attn", self.normed(h + "ln_1", x))
        parts = qkv.view(*x.shape[:-1], 3, self.shape.heads, self.head_dim).unbind(-3)
        return parts[0].transpose(-3, -2), parts[1].transpose(-3, -2), parts[2].transpose(-3, -2)

    def residuals(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
        """Both residual branches of a layer, with dropout; mixed is the attention's output before its
        projection."""
        h = f"h.{layer}."
        x = x + self.masks.drop(self._linear(h + "attn.c_proj", mixed))
        inner = F.gelu(self._linear(h + "mlp.c_fc", self.normed(h + "ln_2", x)), approximate="tanh")
        return x + self.masks.drop(self._linear(h + "mlp.c_proj", inner))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)

    def normed(self, name: str, x: Tensor) -> Tensor:
        """LayerNorm by name over the last dimension."""
        return F.layer_norm(
            x, (x.shape[-1],), self.weights[name + ".weight"], self.weights[name + ".bias"], LAYER_NORM_EPS
        )
