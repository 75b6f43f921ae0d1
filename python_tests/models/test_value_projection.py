"""W_V and its spectrum: the matrix itself, singular vectors whose signs are settled, kept until the weight changes."""

from __future__ import annotations

import pytest
import torch
from random_models import BODIES, random_llama_model, random_model

from latent_ext.models.packed import pack
from latent_ext.models.value_projection import value_bias, value_module, value_spectrum, value_weight
from latent_ext.ops.tolerances import assert_close


@pytest.mark.parametrize("body", BODIES)
def test_the_value_weight_is_what_the_blocks_multiply_by(generator: torch.Generator, body: str) -> None:
    model = BODIES[body][0](generator, **({} if body == "gpt2" else {"attention_bias": True}))
    x = torch.randn(5, model.blocks.hidden_size, generator=generator)
    for layer in range(model.blocks.layers):
        value = model.blocks.query_key_value(layer, x, torch.arange(5))[2].flatten(1)
        bias = value_bias(model.body, layer)
        assert bias is not None
        assert_close(x @ value_weight(model.body, layer).t() + bias, value, "logits")


@pytest.mark.parametrize("body", BODIES)
def test_a_spectrum_is_the_singular_value_decomposition(generator: torch.Generator, body: str) -> None:
    model = BODIES[body][0](generator)
    for layer in range(model.blocks.layers):
        weight, spectrum = value_weight(model.body, layer), value_spectrum(model.body, layer)
        rank = min(weight.shape)
        assert spectrum.left.shape == (weight.shape[0], rank)
        assert_close(spectrum.left @ spectrum.right, weight.contiguous(), "logits")
        assert_close(spectrum.left.t() @ spectrum.left, torch.eye(rank), "logits")
        values = torch.linalg.svdvals(weight)
        assert_close(spectrum.right.norm(dim=1), values, "logits")
        largest = spectrum.left.gather(0, spectrum.left.abs().argmax(dim=0, keepdim=True))
        assert (largest > 0).all()


def test_the_same_weights_have_the_same_spectrum_whatever_the_threads(
    generator: torch.Generator, restored_threads: None
) -> None:
    model = random_model(generator)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model.body.h[0].attn.c_attn.weight.add_(0.0)  # another version: decomposed anew
        found.append(value_spectrum(model.body, 0))
        assert torch.get_num_threads() == threads
    assert found[0] is not found[1]
    assert torch.equal(found[0].left, found[1].left)
    assert torch.equal(found[0].right, found[1].right)


def test_a_changed_weight_is_noticed_and_an_unchanged_one_is_not_decomposed_again(
    generator: torch.Generator,
) -> None:
    model = random_llama_model(generator)
    first = value_spectrum(model.body, 1)
    assert value_spectrum(model.body, 1) is first
    model.body.layers[1].self_attn.v_proj.weight.mul_(2.0)
    assert_close(value_spectrum(model.body, 1).right, 2.0 * first.right, "logits")


def test_a_value_projection_that_is_no_plain_matrix_is_named(generator: torch.Generator) -> None:
    model = random_llama_model(generator)
    attention = model.body.layers[1].self_attn
    attention.v_proj = torch.nn.Sequential(attention.v_proj)
    with pytest.raises(
        ValueError, match=r"^sampler: svp and wv need layer 1's .* plain Linear, got Sequential"
    ):
        value_module(model.body, 1)
    attention.v_proj = attention.v_proj[0]
    attention.v_proj.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"^sampler: svp needs finite weights; layer 1"):
        value_spectrum(model.body, 1)


def test_spectra_are_packed_when_they_are_first_asked_for_and_then_serve_everybody(
    generator: torch.Generator,
) -> None:
    model = random_model(generator)
    plain = pack(model.body)
    assert not plain.spectra
    whole = pack(model.body, spectra=True)
    assert whole.spectra
    assert len(whole.data) > len(plain.data)
    assert pack(model.body) is whole
    assert pack(model.body, spectra=True) is whole
    with pytest.raises(ValueError, match=r"^spectra: got True; they are packed for the CPU alone"):
        pack(model.body, layout="rows", spectra=True)
