"""Bodies in pieces: what they say about themselves, and which bodies can be taken apart."""

from __future__ import annotations

import pytest
import torch
from random_models import random_llama_model, random_model
from torch.nn import functional
from transformers import OPTConfig, OPTModel

from latent_ext.models.blocks import blocks_of
from latent_ext.models.gpt2_blocks import GPT2Blocks
from latent_ext.models.llama_blocks import LlamaBlocks
from latent_ext.ops import sites
from latent_ext.ops.norms import norm_reference
from latent_ext.ops.tolerances import assert_close


def test_each_body_has_its_pieces(generator: torch.Generator) -> None:
    gpt2, llama = random_model(generator).blocks, random_llama_model(generator, head_dim=12).blocks
    assert isinstance(gpt2, GPT2Blocks)
    assert isinstance(llama, LlamaBlocks)
    assert (gpt2.heads, gpt2.kv_heads, gpt2.head_dim, gpt2.hidden_size) == (4, 4, 12, 48)
    assert (llama.heads, llama.kv_heads, llama.head_dim, llama.hidden_size) == (4, 2, 12, 40)
    assert {norm.kind for norm in gpt2.norms} == {"layer"}
    assert {norm.kind for norm in llama.norms} == {"rms"}
    assert len(gpt2.norms) == len(llama.norms) == 5
    assert gpt2.scales == llama.scales == [12**-0.5, 12**-0.5]


def test_residual_dropout_acts_where_it_was_published(generator: torch.Generator) -> None:
    assert random_model(generator).blocks.dropout_sites == (sites.ATTENTION_OUTPUT, sites.MLP_OUTPUT)
    assert random_llama_model(generator).blocks.dropout_sites == (sites.MLP_OUTPUT,)


@pytest.mark.parametrize("make_model", [random_model, random_llama_model])
def test_the_pieces_put_together_by_hand_are_the_body(generator: torch.Generator, make_model) -> None:  # type: ignore[no-untyped-def]
    model = make_model(generator)
    blocks, positions = model.blocks, torch.arange(3, 14)
    inputs = blocks.token_embedding(torch.arange(20, 31))

    def normed(x: torch.Tensor, which: int) -> torch.Tensor:
        kind, weight, bias, eps = blocks.norms[which]
        return norm_reference(x, weight, bias, eps, kind)

    x = blocks.embed(inputs, positions)
    for layer in range(blocks.layers):
        parts = blocks.query_key_value(layer, normed(x, 2 * layer), positions)
        query, key, value = (part.transpose(0, 1) for part in parts)
        context = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=blocks.scales[layer], enable_gqa=True
        )
        x = x + blocks.attention_output(layer, context.transpose(0, 1))
        x = x + blocks.mlp(layer, normed(x, 2 * layer + 1))
    body = model.body(inputs_embeds=inputs.unsqueeze(0), position_ids=positions.unsqueeze(0))
    assert_close(normed(x, -1), body.last_hidden_state[0], "latent_phase")


def test_another_body_is_refused() -> None:
    body = OPTModel(OPTConfig(hidden_size=8, word_embed_proj_dim=8, num_attention_heads=1, ffn_dim=8,
                              num_hidden_layers=1, vocab_size=8))  # fmt: skip
    with pytest.raises(
        TypeError, match=r"^body: got OPTModel; allowed are GPT2Model, LlamaModel, Qwen2Model"
    ):
        blocks_of(body)
