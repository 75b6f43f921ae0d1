"""Llama checkpoints: generators by `family=`, LatentRMs by the LatentTTS layout, every tensor accounted for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_models import QUESTIONS, random_llama_model, random_llama_reward, random_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import latent_ext
from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.tolerances import assert_close

Tensors = dict[str, Tensor]


def save(model: LatentModel, directory: Path) -> Path:
    """As Hugging Face saves it, with the shipped tokenizer."""
    model.hf.save_pretrained(directory)
    for file in SHIPPED_GENERATOR.glob("tokenizer*"):
        shutil.copy(file, directory)
    return directory


@pytest.fixture
def directory(generator: torch.Generator, tmp_path: Path) -> Path:
    return save(random_llama_model(generator), tmp_path / "model")


def change_tensors(directory: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_a_latent_rm_on_another_body_is_refused(generator: torch.Generator, tmp_path: Path) -> None:
    latent_ext.save_reward(random_llama_reward(generator), tmp_path)
    change_config(tmp_path, model_type="qwen2")
    with pytest.raises(CheckpointError, match="a LatentRM on 'qwen2' is not known"):
        latent_ext.load_reward(tmp_path)


def change_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_saved_llama_loads_with_its_own_weights(
    generator: torch.Generator, tmp_path: Path, tied: bool
) -> None:
    saved = random_llama_model(generator, tie_word_embeddings=tied)
    save(saved, tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    model = latent_ext.load(tmp_path, family="coconut", latent_length=4)
    assert (model.lm_head is model.body.get_input_embeddings().weight) is tied
    assert not model.hf.training
    state = model.hf.state_dict()
    assert state.keys() == saved.hf.state_dict().keys()
    for name, value in saved.hf.state_dict().items():
        assert torch.equal(state[name], value)
    assert model.max_positions == 64


def test_a_loaded_llama_answers_with_a_llama_as_its_reward(
    generator: torch.Generator, directory: Path, tmp_path: Path
) -> None:
    latent_ext.save_reward(random_llama_reward(generator), tmp_path / "reward")
    model = latent_ext.load(directory, family="coconut", latent_length=3)
    reward = latent_ext.load_reward(tmp_path / "reward")
    how = {"n": 4, "sampler": "dropout:0.2", "return_thoughts": True, "decode": "all", "max_answer_tokens": 3}
    asked = list(QUESTIONS)
    fast = latent_ext.solve(model, asked, reward=reward, engine="modules", **how)
    slow = latent_ext.solve(model, asked, reward=reward, engine="reference", **how)
    for got, wanted in zip(fast, slow, strict=True):
        for mine, other in zip(got.trajectories, wanted.trajectories, strict=True):
            assert mine.thoughts.shape == (3, 40)
            assert_close(mine.thoughts, other.thoughts, "latent_phase")


def test_a_llama_needs_its_family_named(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no family is known for architectures \['LlamaForCausalLM'\]"):
        latent_ext.load(directory)


def test_the_number_of_embeddings_is_that_of_the_tensor(directory: Path) -> None:
    change_config(directory, vocab_size=9)
    assert latent_ext.load(directory, family="coconut").lm_head.shape == (107, 40)


def test_rotary_frequencies_that_old_checkpoints_carry_are_passed_over(directory: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(directory, lambda tensors: tensors.update({name: torch.ones(5)}))
    latent_ext.load(directory, family="coconut")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rotary_frequencies_stay_in_float32_whatever_the_weights(directory: Path, dtype: torch.dtype) -> None:
    model = latent_ext.load(directory, family="coconut", dtype=dtype)
    assert {parameter.dtype for parameter in model.hf.parameters()} == {dtype}
    frequencies = model.body.rotary_emb.inv_freq
    expected = 10000.0 ** (-torch.arange(0, 10, 2) / 10)
    assert frequencies.dtype == torch.float32
    assert_close(frequencies, expected, "elementary")


def test_positions_beyond_what_bfloat16_counts_are_told_apart(generator: torch.Generator) -> None:
    blocks = random_llama_model(generator, dtype=torch.bfloat16, positions=1024).blocks
    normed = torch.randn(1, 40, generator=generator).to(torch.bfloat16).expand(2, 40)
    # 512 and 513 are one number in bfloat16.
    query, key, value = blocks.query_key_value(0, normed, torch.tensor([512, 513]))
    assert not torch.equal(query[0], query[1])
    assert not torch.equal(key[0], key[1])
    assert torch.equal(value[0], value[1])


FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (
        lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"'model\.layers\.1\.mlp\.up_proj\.weight'.*missing",
    ),
    "missing table": (
        lambda t: t.pop("model.embed_tokens.weight"), r"'model\.embed_tokens\.weight' is missing",
    ),
    "missing output": (lambda t: t.pop("lm_head.weight"), r"'lm_head\.weight' of shape \(107, 40\) is missing"),
    "misshapen": (
        lambda t: t.update({"model.layers.0.self_attn.k_proj.weight": torch.ones(40, 40)}),
        r"k_proj\.weight' has shape \(40, 40\); the config asks for \(20, 40\)",
    ),
    "superfluous": (lambda t: t.update({"lt_head.mean.bias": torch.ones(40)}), "belongs to no part"),
    "integer": (
        lambda t: t.update({"model.norm.weight": torch.ones(40, dtype=torch.int64)}),
        r"norm\.weight' has dtype torch\.int64; floats are needed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_tensor_is_named(directory: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    change_tensors(directory, change)
    with pytest.raises(CheckpointError, match=message) as error:
        latent_ext.load(directory, family="coconut")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "wide"}, "config.json is no LlamaConfig: .*hidden_size"),
        ({"num_attention_heads": 7}, "config.json is no LlamaConfig: .*heads"),
        ({"hidden_act": "unheard of"}, "no LlamaForCausalLM can be built .*unheard of"),
    ],
)
def test_a_faulty_config_is_named(directory: Path, changes: dict[str, object], message: str) -> None:
    change_config(directory, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        latent_ext.load(directory, family="coconut")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_llama_reward_reads_back(
    generator: torch.Generator, tmp_path: Path, dtype: torch.dtype
) -> None:
    reward = random_llama_reward(generator)
    reward.trained_on = {"sampler": "dropout:0.03"}
    latent_ext.save_reward(reward, tmp_path, dtype=dtype)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"model", "classifier"}
    read = latent_ext.load_reward(tmp_path)
    assert read.trained_on == reward.trained_on
    for name, value in reward.module.state_dict().items():
        assert torch.equal(read.module.state_dict()[name], value.to(dtype).float())


def test_the_published_layer_that_is_never_applied_is_passed_over(
    generator: torch.Generator, tmp_path: Path
) -> None:
    latent_ext.save_reward(random_llama_reward(generator), tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update({"projecter.weight": torch.ones(40, 24)}))
    latent_ext.load_reward(tmp_path)


def test_a_reward_with_two_outputs_is_refused(generator: torch.Generator, tmp_path: Path) -> None:
    latent_ext.save_reward(random_llama_reward(generator), tmp_path)
    two = {"classifier.weight": torch.ones(2, 40), "classifier.bias": torch.ones(2)}
    change_tensors(tmp_path, lambda tensors: tensors.update(two))
    with pytest.raises(CheckpointError, match=r"'classifier\.weight' has shape \(2, 40\)"):
        latent_ext.load_reward(tmp_path)


def test_a_reward_for_thoughts_of_another_size_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"reward: reads thoughts of size 40; this model's have 48"):
        latent_ext.solve(random_model(generator), "7", n=1, reward=random_llama_reward(generator))
