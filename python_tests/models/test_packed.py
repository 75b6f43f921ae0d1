"""Packing a model: done once, redone when weights change, saved and read back, refused where it cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_models import BODIES, QUESTIONS, SEED, random_llama_model, random_model
from safetensors.torch import save_file
from torch import nn

import latent_ext
from latent_ext.engine import choose_engine
from latent_ext.models.family import HeadStage, ThoughtHead
from latent_ext.models.packed import WEIGHTS, load_packed, pack, why_not_packable


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("body", BODIES)
def test_a_model_is_packed_once_and_again_when_its_weights_change(
    generator: torch.Generator, body: str, weights: str
) -> None:
    model = BODIES[body][0](generator)
    first = pack(model.body, weights=weights, lm_head=model.lm_head)
    assert pack(model.body, weights=weights, lm_head=model.lm_head) is first
    with torch.no_grad():
        next(model.body.parameters()).mul_(2.0)
        list(model.body.parameters())[5].mul_(2.0)
    again = pack(model.body, weights=weights, lm_head=model.lm_head)
    assert not torch.equal(again.data, first.data)


def test_solve_sees_weights_that_were_changed_in_place(generator: torch.Generator) -> None:
    model = random_model(generator)

    def thoughts(engine: str) -> torch.Tensor:
        (result,) = latent_ext.solve(
            model, QUESTIONS[0], n=1, sampler="none", engine=engine, seed=SEED, return_thoughts=True
        )
        return result.trajectories[0].thoughts

    before = thoughts("native")
    with torch.no_grad():
        model.hf.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    assert not torch.equal(thoughts("native"), before)
    assert torch.allclose(thoughts("native"), thoughts("reference"), atol=1e-3)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_saved_pack_is_read_back_the_same(generator: torch.Generator, tmp_path: Path, weights: str) -> None:
    model = random_llama_model(generator)
    packed = pack(model.body, weights=weights, lm_head=model.lm_head)
    packed.save(tmp_path / "packed.safetensors")
    again = load_packed(packed, tmp_path / "packed.safetensors")
    assert torch.equal(again.data, packed.data)


def test_a_file_that_is_no_pack_of_this_model_is_named(generator: torch.Generator, tmp_path: Path) -> None:
    model = random_model(generator)
    packed = pack(model.body, lm_head=model.lm_head)
    path = tmp_path / "other.safetensors"
    for tensors in ({"packed": packed.data[:-64].clone()}, {"something": torch.zeros(3)}):
        save_file(tensors, path)
        with pytest.raises(ValueError, match=r"path: .*other\.safetensors holds"):
            load_packed(packed, path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=r"path: .*other\.safetensors holds no packed model"):
        load_packed(packed, path)


def test_smaller_formats_are_smaller(generator: torch.Generator) -> None:
    model = random_model(generator)
    sizes = [pack(model.body, weights=weights, lm_head=model.lm_head).data.numel() for weights in WEIGHTS]
    assert sizes[0] > sizes[1] > sizes[2]


def test_what_cannot_be_packed_is_named_and_left_to_the_next_engine(generator: torch.Generator) -> None:
    model = random_model(generator)
    model.hf.transformer.h[1].mlp.c_fc = nn.Linear(48, 192)
    reason = "h.1.mlp.c_fc is a Linear, not a Conv1D"
    assert why_not_packable(model.body) == reason
    with pytest.raises(ValueError, match=f"model: cannot be packed: {reason}"):
        pack(model.body)
    with pytest.raises(RuntimeError, match=f"engine: 'native' cannot run this model on cpu: {reason}"):
        choose_engine(model, "native")
    with pytest.raises(ValueError, match="weights: 'bf16' needs the native engine"):
        choose_engine(model, "auto", weights="bf16")
    assert choose_engine(model)[1].name == "modules"


def test_native_is_what_auto_takes(generator: torch.Generator) -> None:
    for make_model, _ in BODIES.values():
        engine, choice = choose_engine(make_model(generator))
        assert (engine.name, choice.name, engine.weights) == ("native", "native", "fp32")
    assert choose_engine(random_model(generator, dtype=torch.bfloat16))[0].weights == "bf16"


def test_an_unknown_format_is_refused(generator: torch.Generator) -> None:
    model = random_model(generator)
    with pytest.raises(ValueError, match="weights: got 'fp8'; allowed are fp32, bf16, int8"):
        choose_engine(model, weights="fp8")
    with pytest.raises(ValueError, match="weights: got 'fp8'; allowed are fp32, bf16, int8"):
        pack(model.body, weights="fp8")


def test_a_gelu_without_a_linear_layer_before_it_is_not_packed(generator: torch.Generator) -> None:
    head = ThoughtHead(stages=(HeadStage("gelu"),))
    reason = why_not_packable(random_model(generator).body, head)
    assert reason == "its thought head has a GELU that does not follow a linear layer"
