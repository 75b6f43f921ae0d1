"""Checkpoints: every tensor is accounted for, and what is wrong with one is said in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_models import random_model, random_reward
from safetensors.torch import load_file, save_file
from torch import Tensor

import latent_ext
from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.models.checkpoint import CheckpointError

Tensors = dict[str, Tensor]


@pytest.fixture
def directory(generator: torch.Generator, tmp_path: Path) -> Path:
    """A random model as Hugging Face saves it, with the shipped tokenizer."""
    target = tmp_path / "model"
    random_model(generator).hf.save_pretrained(target)
    for file in SHIPPED_GENERATOR.glob("tokenizer*"):
        shutil.copy(file, target)
    return target


def change_tensors(directory: Path, change: Callable[[Tensors], object]) -> Tensors:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    return tensors


def change_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_model_loads_with_its_own_weights(directory: Path) -> None:
    model = latent_ext.load(directory)
    assert torch.equal(model.lm_head, load_file(directory / "model.safetensors")["transformer.wte.weight"])
    assert model.lm_head is model.hf.transformer.wte.weight
    assert not model.hf.training
    assert latent_ext.load(directory).weights_hash == model.weights_hash


FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (lambda t: t.pop("transformer.h.1.mlp.c_fc.bias"), r"'transformer\.h\.1\.mlp\.c_fc\.bias'.*missing"),
    "missing table": (lambda t: t.pop("transformer.wpe.weight"), r"'transformer\.wpe\.weight' is missing"),
    "misshapen": (lambda t: t.update({"transformer.ln_f.weight": torch.ones(47)}), r"ln_f\.weight' has shape \(47,\)"),
    "flat table": (lambda t: t.update({"transformer.wte.weight": torch.ones(9)}), "has 1 dimensions"),
    "superfluous": (lambda t: t.update({"adapter.weight": torch.ones(1)}), "'adapter.weight' belongs to no part"),
    "integer": (
        lambda t: t.update({"transformer.ln_f.bias": torch.zeros(48, dtype=torch.int64)}),
        r"ln_f\.bias' has dtype torch\.int64; floats are needed",
    ),
    "few embeddings": (
        lambda t: t.update({"transformer.wte.weight": torch.ones(100, 48)}), r"token id 104 \(start\) is outside",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_tensor_is_named(directory: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    change_tensors(directory, change)
    with pytest.raises(CheckpointError, match=message) as error:
        latent_ext.load(directory)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_a_truncated_file_is_named(directory: Path, kept: float) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or not a safetensors file"):
        latent_ext.load(directory)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"\xff\xfe", "is not JSON"),
        ("config.json", b"[]", "holds list"),
        ("model.safetensors", None, r"has no model\.safetensors"),
        ("model.safetensors.index.json", b"\xff\xfe", "is not a safetensors index"),
        ("model.safetensors.index.json", b"{}", "is not a safetensors index"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "../x.safetensors"}}',
            "outside its own directory",
        ),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "/x.safetensors"}}',
            "outside its own directory",
        ),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 3}}', "outside its own directory"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}', r"has no b\.safetensors"),
    ],
)
def test_a_faulty_file_is_named(directory: Path, name: str, content: bytes | None, message: str) -> None:
    (directory / name).unlink(missing_ok=True)
    if content is not None:
        (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        latent_ext.load(directory)


def test_other_model_types_and_families_are_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="family: got 'soft'; allowed are coconut"):
        latent_ext.load(directory, family="soft")
    change_config(directory, architectures=["OPTForCausalLM"])
    with pytest.raises(CheckpointError, match="no family is known for architectures"):
        latent_ext.load(directory)
    for model_type in ("opt", None, ["gpt2"]):
        change_config(directory, model_type=model_type)
        with pytest.raises(
            CheckpointError, match=r"model_type is .*; 'gpt2', 'llama', 'qwen2' are supported"
        ):
            latent_ext.load(directory, family="coconut")


@pytest.mark.parametrize("steps", [-1, 2.5, "6"])
def test_a_bad_number_of_thoughts_is_refused(directory: Path, steps: object) -> None:
    with pytest.raises(ValueError, match="latent_length: got"):
        latent_ext.load(directory, latent_length=steps)  # type: ignore[arg-type]


def test_what_is_neither_a_directory_nor_a_hub_id_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor a Hub id"):
        latent_ext.load("no/such/place")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_published_layout_loads(directory: Path, dtype: torch.dtype) -> None:
    def publish(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
        for name in list(tensors):
            tensors[name] = tensors[name].to(dtype)
        for layer in range(2):
            mask = torch.ones(64, 64, dtype=torch.bool).tril().reshape(1, 1, 64, 64)
            tensors[f"transformer.h.{layer}.attn.bias"] = mask
            tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    tensors = change_tensors(directory, publish)
    change_config(
        directory,
        architectures=["COCONUTGPT2"],
        vocab_size=50257,
        torch_dtype=str(dtype)[6:],
        latent_id=50260,
    )
    model = latent_ext.load(directory)
    assert (model.family.name, model.dtype) == ("coconut", torch.float32)
    assert torch.equal(model.lm_head, tensors["lm_head.weight"].float())


def test_a_shard_index_is_followed(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for part, own in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in own}, directory / f"part-{part}.safetensors")
        weight_map |= dict.fromkeys(own, f"part-{part}.safetensors")
    expected = latent_ext.load(directory).weights_hash
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert latent_ext.load(directory).weights_hash == expected


def test_an_untied_output_embedding_is_read_and_demanded(directory: Path) -> None:
    change_config(directory, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' of shape .* is missing"):
        latent_ext.load(directory)
    head = torch.randn(107, 48)
    change_tensors(directory, lambda tensors: tensors.update({"lm_head.weight": head}))
    assert torch.equal(latent_ext.load(directory).lm_head, head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_reward_reads_back(generator: torch.Generator, tmp_path: Path, dtype: torch.dtype) -> None:
    reward = random_reward(generator)
    reward.trained_on = {"sampler": "noise:0.4:relative", "scope": "latent"}
    latent_ext.save_reward(reward, tmp_path / "a" / "b", dtype=dtype)
    read = latent_ext.load_reward(tmp_path / "a" / "b")
    assert read.trained_on == reward.trained_on
    state = read.module.state_dict()
    assert state.keys() == reward.module.state_dict().keys()
    for name, value in reward.module.state_dict().items():
        assert torch.equal(state[name], value.to(dtype).float())


def test_a_reward_without_its_head_is_refused(generator: torch.Generator, tmp_path: Path) -> None:
    latent_ext.save_reward(random_reward(generator), tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.pop("classifier.bias"))
    with pytest.raises(CheckpointError, match=r"'classifier\.bias' of shape \(1,\) is missing"):
        latent_ext.load_reward(tmp_path)


def test_a_reward_for_other_thoughts_or_fewer_positions_is_refused(generator: torch.Generator) -> None:
    model = random_model(generator)
    with pytest.raises(ValueError, match=r"reward: has 40 positions; this model's 64 are needed"):
        latent_ext.solve(model, "7", n=1, reward=random_reward(generator, positions=40))
    shipped = latent_ext.load_reward()
    with pytest.raises(ValueError, match=r"reward: reads thoughts of size 128; this model's have 48"):
        latent_ext.solve(model, "7", n=1, reward=shipped)
