"""Every layout: what is wrong with a checkpoint is said in one sentence that names the tensor, and no code is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from zoo import ZOO, OnDisk, read_file, weight_file, write_file

import latent_ext
from latent_ext.models.checkpoint import CheckpointError


@pytest.fixture(params=ZOO)
def on_disk(request: pytest.FixtureRequest, generator: torch.Generator, tmp_path: Path) -> OnDisk:
    return ZOO[request.param](tmp_path, generator)


def load(on_disk: OnDisk) -> latent_ext.LatentModel:
    return latent_ext.load(on_disk.directory, **on_disk.load)


def refusal(on_disk: OnDisk) -> str:
    with pytest.raises(CheckpointError) as error:
        load(on_disk)
    assert "\n" not in str(error.value)
    return str(error.value)


def package_name(name: str) -> str:
    """What the package calls a tensor of a file."""
    for old, new in (
        ("codi.base_model.model.", ""), ("llm.base_model.model.", ""), ("base_causallm.", ""), (".default.", "."),
        (".base_layer.", "."), ("latent_policy.", "lt_head."), ("prj.ln.", "projector.4."), ("prj.", "projector."),
    ):  # fmt: skip
        name = name.replace(old, new)
    return name


def read_by_inference(name: str) -> bool:
    aside = ("expainable_llm.", "decoder.", "pj_in.")
    return not name.startswith(aside) and name != "embedding.weight" and not name.endswith("lm_head.weight")


def test_the_layout_is_recognised_without_a_family(on_disk: OnDisk) -> None:
    model = load(on_disk)
    assert not model.hf.training
    assert model.weights_hash == load(on_disk).weights_hash


def test_every_missing_tensor_is_named(on_disk: OnDisk) -> None:
    path = weight_file(on_disk.directory)
    whole = read_file(path)
    # A deviation is optional as a whole: a policy without it is deterministic.
    names = [name for name in whole if read_by_inference(name)][::7]
    assert names
    for name in names:
        write_file({key: value for key, value in whole.items() if key != name}, path)
        assert f"tensor {package_name(name)!r}" in refusal(on_disk).replace(".base_layer.", ".")


def test_a_misshapen_tensor_is_named(on_disk: OnDisk) -> None:
    path = weight_file(on_disk.directory)
    whole = read_file(path)
    for name in [name for name in whole if read_by_inference(name) and name.endswith("bias")][::5]:
        write_file(whole | {name: torch.ones(3)}, path)
        message = refusal(on_disk).replace(".base_layer.", ".")
        assert f"{package_name(name)!r} has shape (3,)" in message


def test_a_surplus_tensor_is_named(on_disk: OnDisk) -> None:
    path = weight_file(on_disk.directory)
    write_file(read_file(path) | {"adapter.weight": torch.ones(1)}, path)
    assert "tensor 'adapter.weight' belongs to no part of the model" in refusal(on_disk)


@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_a_truncated_file_gives_one_clear_error(on_disk: OnDisk, kept: float) -> None:
    path = weight_file(on_disk.directory)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    message = refusal(on_disk)
    assert f"{path} is truncated" in message


class Payload:
    """Runs a command where a pickle is trusted."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["Facebook Coconut", "original CODI", "original CoLaR"])
def test_a_pickle_that_would_run_code_is_refused(
    name: str, generator: torch.Generator, tmp_path: Path
) -> None:
    on_disk = ZOO[name](tmp_path, generator)
    path = weight_file(on_disk.directory)
    torch.save({"state_dict": read_file(path), "hyper_parameters": Payload(tmp_path / "ran")}, path)
    assert "no file of tensors alone" in refusal(on_disk)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_dictionary_of_tensors_is_named(generator: torch.Generator, tmp_path: Path) -> None:
    on_disk = ZOO["Facebook Coconut"](tmp_path, generator)
    path = weight_file(on_disk.directory)
    whole = read_file(path)
    for held, message in (
        ([1, 2], "holds list; named tensors are needed"),
        ({}, "named tensors are needed"),
        (whole | {"epoch": 3}, "holds int under 'epoch'; tensors are needed"),
        (whole | {"a": torch.ones(2).to_sparse()}, "tensor 'a' is not stored in full"),
        (whole | {"a": torch.ones(1).expand(9)}, "tensor 'a' is not stored in full"),
    ):
        torch.save(held, path)
        assert message in refusal(on_disk)


def test_a_family_that_the_layout_does_not_hold_is_refused(
    generator: torch.Generator, tmp_path: Path
) -> None:
    on_disk = ZOO["original CODI"](tmp_path, generator)
    with pytest.raises(
        CheckpointError, match="its layout 'original-codi' is one of family codi, not 'coconut'"
    ):
        latent_ext.load(on_disk.directory, family="coconut")


def test_half_an_adapter_and_one_of_another_size_are_named(
    generator: torch.Generator, tmp_path: Path
) -> None:
    on_disk = ZOO["original CODI"](tmp_path, generator)
    path = weight_file(on_disk.directory)
    whole = read_file(path)
    name = "codi.base_model.model.transformer.h.0.mlp.c_fc.lora_B.default.weight"
    write_file(whole | {name: torch.ones(3, 4)}, path)
    assert "'transformer.h.0.mlp.c_fc.lora_B.weight' has shape (3, 4); (192, 4) is needed" in refusal(on_disk)
    write_file(whole | {name: torch.ones(192, 4, dtype=torch.int64)}, path)
    assert "'transformer.h.0.mlp.c_fc.lora_B.weight' has dtype torch.int64" in refusal(on_disk)


def test_an_adapter_where_no_linear_is_belongs_to_no_part(generator: torch.Generator, tmp_path: Path) -> None:
    on_disk = ZOO["original CODI"](tmp_path, generator)
    path = weight_file(on_disk.directory)
    stray = {
        f"codi.base_model.model.transformer.h.0.ln_1.lora_{part}.default.weight": torch.ones(4, 4)
        for part in "AB"
    }
    write_file(read_file(path) | stray, path)
    for switches in ({}, {"lora": "unmerged"}):
        on_disk.load = {"switches": switches}
        assert "'transformer.h.0.ln_1" in refusal(on_disk)
