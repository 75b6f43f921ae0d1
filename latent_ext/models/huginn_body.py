"""Huginn's network: a prelude, a core that is run T times, a coda (Geiping et al., arXiv 2502.05171).

Written from the published layout (model_type "huginn_raven"), as far as inference needs; module names are those of the
checkpoint's tensors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from latent_ext.models.depth import Attend, DepthSteps
from latent_ext.models.thought_rule import DRAW_SHIFT, Draw
from latent_ext.ops import sites

# The initial state is a normal cut at so many standard deviations.
_CUT = 3.0
# Element of the one number that the noise schedule "chi" draws per position and step: no feature has it.
_CHI_ELEMENT = (1 << DRAW_SHIFT) - 1


class HuginnConfig(PretrainedConfig):
    """Sizes of a Huginn; names and defaults as published."""

    model_type = "huginn_raven"

    def __init__(
        self,
        n_embd: int = 5280,
        n_heads: int = 55,
        block_size: int = 4096,
        vocab_size: int = 65536,
        intermediate_size: int = 17920,
        norm_eps: float = 1e-6,
        n_layers_in_prelude: int = 2,
        n_layers_in_recurrent_block: int = 4,
        n_layers_in_coda: int = 2,
        mean_recurrence: int = 32,
        qk_bias: bool = True,
        rope_base: float = 50_000,
        tie_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.n_embd = n_embd
        self.n_heads = n_heads
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.intermediate_size = intermediate_size
        self.norm_eps = norm_eps
        self.n_layers_in_prelude = n_layers_in_prelude
        self.n_layers_in_recurrent_block = n_layers_in_recurrent_block
        self.n_layers_in_coda = n_layers_in_coda
        self.mean_recurrence = mean_recurrence
        self.qk_bias = qk_bias
        self.rope_base = rope_base
        self.tie_embeddings = tie_embeddings
        super().__init__(**{"tie_word_embeddings": tie_embeddings, **kwargs})

    @property
    def max_position_embeddings(self) -> int:
        """Positions that the model was made for."""
        return self.block_size


class RootMeanSquare(nn.Module):
    """RMSNorm in float32, rounded before the weight is applied."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class _Attention(nn.Module):
    def __init__(self, config: HuginnConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.n_heads, config.n_embd // config.n_heads
        self.Wqkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        if config.qk_bias:
            self.qk_bias = nn.Parameter(torch.zeros(2, 1, config.n_heads, self.head_dim))
        else:
            self.register_parameter("qk_bias", None)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], slot: int, attend: Attend) -> Tensor:
        """x (rows, hidden); rotation: cosine and sine, float32 (rows, 1, head_dim / 2)."""
        query, key, value = self.Wqkv(x).reshape(len(x), 3, self.heads, self.head_dim).unbind(1)
        if self.qk_bias is not None:
            query, key = query + self.qk_bias[0], key + self.qk_bias[1]
        context = attend(slot, _rotate_pairs(query, rotation), _rotate_pairs(key, rotation), value)
        return self.proj(context.reshape(len(x), -1))


def _rotate_pairs(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on neighbouring pairs (not on halves as in Llama), in float32."""
    cosine, sine = rotation
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1).flatten(-2).to(x.dtype)


class _GatedMLP(nn.Module):
    def __init__(self, config: HuginnConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.n_embd, 2 * config.intermediate_size, bias=False)
        self.proj = nn.Linear(config.intermediate_size, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc(x).chunk(2, dim=-1)
        return self.proj(functional.silu(gate) * value)


class _SandwichBlock(nn.Module):
    """Norms before and after each branch; the one behind it acts on the sum with the residual."""

    def __init__(self, config: HuginnConfig) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3, self.norm_4 = (
            RootMeanSquare(config.n_embd, config.norm_eps) for _ in range(4)
        )
        self.attn = _Attention(config)
        self.mlp = _GatedMLP(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], slot: int, attend: Attend) -> Tensor:
        x = self.norm_2(self.attn(self.norm_1(x), rotation, slot, attend) + x)
        return self.norm_4(self.mlp(self.norm_3(x)) + x)


class HuginnForCausalLM(PreTrainedModel):
    """Parameters of a Huginn under their published names; `HuginnSteps` computes with them."""

    config_class = HuginnConfig
    base_model_prefix = "transformer"
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012 (an instance variable upstream)

    def __init__(self, config: HuginnConfig) -> None:
        super().__init__(config)

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(_SandwichBlock(config) for _ in range(count))

        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "prelude": blocks(config.n_layers_in_prelude),
                "adapter": nn.Linear(2 * config.n_embd, config.n_embd, bias=False),
                "core_block": blocks(config.n_layers_in_recurrent_block),
                "coda": blocks(config.n_layers_in_coda),
                "ln_f": RootMeanSquare(config.n_embd, config.norm_eps),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer["wte"]

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


class HuginnSteps(DepthSteps):
    """Huginn in pieces. Slots: prelude, then ``depth`` times the core, then the coda.

    Args:
        model: in eval mode.
        depth: number of core steps T.
    """

    # "noise" is added to thoughts; "state" and "mix" are Huginn's own handles.
    randomness = ("state", "mix", "noise")

    def __init__(self, model: HuginnForCausalLM, depth: int) -> None:
        config = model.config
        self.model, self.depth = model, depth
        self._parts: Any = model.transformer  # nn.ModuleDict has no element type
        self._prelude, self._core = config.n_layers_in_prelude, config.n_layers_in_recurrent_block
        self.layers = self._prelude + depth * self._core + config.n_layers_in_coda
        self.hidden_size = config.n_embd
        self.heads = self.kv_heads = config.n_heads
        self.head_dim = config.n_embd // config.n_heads
        self.scales = [self.head_dim**-0.5] * self.layers
        # Standard deviation of the initial state once it is scaled like the embeddings: sqrt(2 / 5) at every width.
        self.state_std = math.sqrt(2 / (5 * config.n_embd)) * math.sqrt(config.n_embd)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        even = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=positions.device)
        frequencies = 1.0 / (self.model.config.rope_base ** (even / self.head_dim))
        angles = torch.outer(positions.float(), frequencies).unsqueeze(1)
        return angles.cos(), angles.sin()

    def token_embedding(self, tokens: Tensor) -> Tensor:
        return self._parts["wte"](tokens)

    def injected(self, inputs: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        rotation = self._rotation(positions)
        x = inputs * math.sqrt(self.hidden_size)
        for slot, block in enumerate(self._parts["prelude"]):
            x = block(x, rotation, slot, attend)
        return x

    def initial_state(self, injected: Tensor, draw: Draw | None) -> Tensor:
        """Zeros, or the published cut normal: element = feature of site INITIAL_STATE at the token's position."""
        part = None if draw is None else draw.parts.get("state")
        if draw is None or part is None:
            return torch.zeros_like(injected)
        uniform = draw.uniforms(self.hidden_size, site=sites.INITIAL_STATE)
        low = 0.5 * math.erfc(_CUT / math.sqrt(2.0))
        values = torch.special.ndtri(low + (1.0 - 2.0 * low) * uniform)
        return (part.scale * self.state_std * values).to(injected.dtype)

    def step(self, t: int, state: Tensor, injected: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        rotation = self._rotation(positions)
        x = self._parts["adapter"](torch.cat([state, injected], dim=-1))
        for slot, block in enumerate(self._parts["core_block"], self._prelude + t * self._core):
            x = block(x, rotation, slot, attend)
        return x

    def hidden(self, states: list[Tensor], positions: Tensor, attend: Attend) -> Tensor:
        rotation = self._rotation(positions)
        norm = self._parts["ln_f"]
        x = norm(states[-1])
        for slot, block in enumerate(self._parts["coda"], self._prelude + self.depth * self._core):
            x = block(x, rotation, slot, attend)
        return norm(x)

    def disturbed(self, t: int, state: Tensor, draw: Draw) -> Tensor:
        """Additive noise as in every depth-recurrent body, and Huginn's own: a mix with noise, normed again.

        The mix also acts on the initial state (t = 0), as published. Its element is ``(t + 1) << 20 | feature`` of
        site INITIAL_STATE, where elements below 2**20 are the initial state's own.
        """
        state = super().disturbed(t, state, draw)
        mix = draw.parts.get("mix")
        if mix is None:
            return state
        share: Tensor | float
        if mix.schedule == "chi":
            element = torch.tensor([(t + 1) << DRAW_SHIFT | _CHI_ELEMENT], device=state.device)
            share = (2.0 * mix.share * self.state_std * draw.uniforms(element, sites.INITIAL_STATE)).float()
        else:
            # "line" falls with the depth that the model was trained for, whatever the depth of this run.
            share = mix.at(t, self.state_std, self.model.config.mean_recurrence)
        values = draw.normals(self._elements(t + 1, state), sites.INITIAL_STATE)
        mixed = state.float() * (1.0 - share) + values * share
        return self._parts["core_block"][-1].norm_4(mixed.to(state.dtype))
