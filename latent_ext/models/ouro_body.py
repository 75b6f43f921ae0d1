"""Ouro's network: one stack of layers run T times, each pass normed (LoopLM; Zhu et al., arXiv 2510.25741).

Written from the published layout (model_type "ouro"), as far as inference needs; module names are those of the
checkpoint's tensors. MLP, norm and rotary positions are Llama's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from latent_ext.models.depth import Attend, DepthSteps
from latent_ext.models.thought_rule import Draw

ExitRule = Literal["last", "threshold", "weighted"]


class OuroConfig(LlamaConfig):
    """Llama's sizes, and how often the stack is run.

    Attributes:
        total_ut_steps: passes that the model was trained with.
        early_exit_threshold: cumulative exit probability at which a token's output is taken.
    """

    model_type = "ouro"
    total_ut_steps: int = 4
    early_exit_threshold: float = 1.0


class _Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        width, kv = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
        self.q_proj = nn.Linear(hidden, width, bias=False)
        self.k_proj = nn.Linear(hidden, kv, bias=False)
        self.v_proj = nn.Linear(hidden, kv, bias=False)
        self.o_proj = nn.Linear(width, hidden, bias=False)


class _Layer(nn.Module):
    """A norm before and one behind each branch, the latter before the residual is added."""

    def __init__(self, config: OuroConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = LlamaMLP(config)
        for name in ("input_layernorm", "post_attention_layernorm"):
            for suffix in ("", "_2"):
                setattr(self, name + suffix, LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps))


class _Body(nn.Module):
    def __init__(self, config: OuroConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.early_exit_gate = nn.Linear(config.hidden_size, 1)
        self.rotary_emb = LlamaRotaryEmbedding(config)


class OuroForCausalLM(PreTrainedModel):
    """Parameters of an Ouro under their published names; `OuroSteps` computes with them."""

    config_class = OuroConfig
    base_model_prefix = "model"

    def __init__(self, config: OuroConfig) -> None:
        super().__init__(config)
        self.model = _Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


class OuroSteps(DepthSteps):
    """Ouro in pieces: the normed state after each pass is its thought and the next pass's input.

    Args:
        model: in eval mode.
        depth: number of passes T.
        exit_rule: which pass's thought the LM head reads: "last"; "threshold", the first at which the cumulative exit
            probability reaches `threshold`, else the last; "weighted", all of them weighted by exit probability.
            All passes are computed in any case, since later tokens read their keys and values.
        threshold: of "threshold".
    """

    randomness = ("noise",)

    def __init__(self, model: OuroForCausalLM, depth: int, exit_rule: ExitRule, threshold: float) -> None:
        config: Any = model.config
        self.model, self.depth, self.exit_rule, self.threshold = model, depth, exit_rule, threshold
        self._body: Any = model.model
        self._layers: Any = list(model.model.layers)
        self.layers = depth * len(self._layers)
        self.hidden_size = int(config.hidden_size)
        self.heads, self.kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.head_dim = int(config.head_dim)
        self.scales = [self.head_dim**-0.5] * self.layers

    def token_embedding(self, tokens: Tensor) -> Tensor:
        return self._body.embed_tokens(tokens)

    def injected(self, inputs: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        return inputs

    def initial_state(self, injected: Tensor, draw: Draw | None) -> Tensor:
        return injected

    def step(self, t: int, state: Tensor, injected: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        cosine, sine = self._body.rotary_emb(state, position_ids=positions.unsqueeze(0))
        x = state
        for slot, layer in enumerate(self._layers, t * len(self._layers)):
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            query, key, value = (
                projection(normed).reshape(len(x), -1, self.head_dim)
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            query, key = apply_rotary_pos_emb(query, key, cosine[0], sine[0])
            branch = attention.o_proj(attend(slot, query, key, value).reshape(len(x), -1))
            x = x + layer.input_layernorm_2(branch)
            branch = layer.mlp(layer.post_attention_layernorm(x))
            x = x + layer.post_attention_layernorm_2(branch)
        return self._body.norm(x)

    def exit_probabilities(self, states: list[Tensor]) -> Tensor:
        """float32 (rows, T): probability that the output is taken after each pass; they sum to 1."""
        gate = self._body.early_exit_gate
        remaining = torch.ones(len(states[0]), device=states[0].device)
        listed = []
        for state in states[:-1]:
            leaves = torch.sigmoid(gate(state).squeeze(-1).float())
            listed.append(leaves * remaining)
            remaining = remaining * (1.0 - leaves)
        return torch.stack([*listed, remaining], dim=1)

    def hidden(self, states: list[Tensor], positions: Tensor, attend: Attend) -> Tensor:
        if self.exit_rule == "last":
            return states[-1]
        probabilities = self.exit_probabilities(states)
        stacked = torch.stack(states, dim=1)
        if self.exit_rule == "weighted":
            # The LM head is linear: weighting states weights logits.
            return (stacked.float() * probabilities.unsqueeze(-1)).sum(1).to(stacked.dtype)
        reached = probabilities.cumsum(1) >= self.threshold
        reached[:, -1] = True
        return stacked[torch.arange(len(stacked), device=stacked.device), reached.float().argmax(1)]
