"""Conversion between layouts: bits, dtypes, config and tokenizer come back; what would be lost is said first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from zoo import ZOO, OnDisk, read_file, weight_file

import latent_ext
from latent_ext.models.convert import convert

# By checkpoint: layouts that hold all of it.
ROUTES = {
    "LatentTTS COCONUT": ("latenttts", "original-coconut"),
    "LatentTTS CODI": ("latenttts", "original-codi"),
    "LatentTTS CODI on Llama": ("latenttts", "original-codi"),
    "LatentTTS CoLaR": ("latenttts", "original-colar"),
    "Facebook Coconut": ("original-coconut", "latenttts"),
    "Facebook Coconut, CoT stage": ("latenttts",),
    "SIM-CoT Coconut": ("simcot-coconut",),
    "original CODI": ("original-codi",),
    "original CODI on Llama": ("original-codi",),
    "SIM-CoT CODI": ("original-codi",),
    "original CoLaR": ("original-colar",),
}


def assert_same_bits(mine: Path, other: Path) -> None:
    got, wanted = read_file(weight_file(mine)), read_file(weight_file(other))
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor), name


def config_of(directory: Path, on_disk: OnDisk) -> dict:
    config = json.loads((directory / "config.json").read_text())
    if on_disk.layout != "latenttts":
        # The name of LatentTTS's class stays in a config that went through its layout.
        config.pop("architectures", None)
    return config


@pytest.mark.parametrize(("name", "through"), [(name, via) for name, all_ in ROUTES.items() for via in all_])
def test_a_round_trip_gives_the_same_bits(
    generator: torch.Generator, tmp_path: Path, name: str, through: str
) -> None:
    on_disk: OnDisk = ZOO[name](tmp_path, generator)
    before = latent_ext.load(on_disk.directory, **on_disk.load)
    convert(on_disk.directory, tmp_path / "there", through, **on_disk.load)
    there = latent_ext.load(tmp_path / "there")
    assert there.weights_hash == before.weights_hash
    assert (there.ids.start, there.ids.end, there.ids.eos) == (
        before.ids.start,
        before.ids.end,
        before.ids.eos,
    )
    back = on_disk.layout if "CoT stage" not in name else "original-coconut"
    convert(tmp_path / "there", tmp_path / "back", back)
    assert latent_ext.load(tmp_path / "back").weights_hash == before.weights_hash
    if name == "original CoLaR":
        # The whole body comes along, since the result needs no base.
        kept = read_file(weight_file(tmp_path / "back"))
        for key, tensor in read_file(weight_file(on_disk.directory)).items():
            assert torch.equal(kept[key], tensor)
    elif "CoT stage" not in name:
        assert_same_bits(tmp_path / "back", on_disk.directory)
        assert config_of(tmp_path / "back", on_disk) == config_of(on_disk.directory, on_disk)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_dtypes_are_kept(generator: torch.Generator, tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    on_disk = ZOO["LatentTTS CODI"](tmp_path, generator)
    path = weight_file(on_disk.directory)
    save_file({name: tensor.to(dtype) for name, tensor in read_file(path).items()}, path)
    convert(on_disk.directory, tmp_path / "there", "original-codi")
    convert(tmp_path / "there", tmp_path / "back", "latenttts")
    assert_same_bits(tmp_path / "back", on_disk.directory)


def test_an_answer_is_the_same_behind_a_conversion_with_the_switches_it_names(
    generator: torch.Generator, tmp_path: Path
) -> None:
    on_disk = ZOO["original CODI"](tmp_path, generator)
    switches = convert(on_disk.directory, tmp_path / "there", "latenttts", lossy=True)
    assert switches == {"question": "squeezed", "end_token": "excluded"}
    asked, how = " two  blanks ", {"n": 2, "sampler": "noise:0.4", "max_answer_tokens": 5}
    # The end token is the last row only where no string stands behind it.
    before = latent_ext.solve(latent_ext.load(on_disk.directory), asked, **how)[0]
    after = latent_ext.solve(latent_ext.load(tmp_path / "there", switches=switches), asked, **how)[0]
    assert [t.tokens for t in before.trajectories] == [t.tokens for t in after.trajectories]


def test_what_a_layout_cannot_hold_is_given_up_only_on_request(
    generator: torch.Generator, tmp_path: Path
) -> None:
    (tmp_path / "codi").mkdir()
    (tmp_path / "colar").mkdir()
    codi = ZOO["original CODI"](tmp_path / "codi", generator)
    with pytest.raises(ValueError, match=r"holds no adapter, and there is 'transformer.*lora_A.*'; --lossy"):
        convert(codi.directory, tmp_path / "out", "latenttts")
    assert not (tmp_path / "out").exists()
    colar = ZOO["original CoLaR"](tmp_path / "colar", generator)
    convert(colar.directory, tmp_path / "out", "latenttts", lossy=True, **colar.load)
    merged = latent_ext.load(tmp_path / "out")
    assert merged.family.thought_head(merged.hf).log_std is None
    before = latent_ext.load(colar.directory, **colar.load).hf
    for name, value in merged.hf.named_parameters():
        assert torch.equal(value, before.get_parameter(name))


def test_bad_requests_are_named(generator: torch.Generator, tmp_path: Path) -> None:
    on_disk = ZOO["LatentTTS COCONUT"](tmp_path, generator)
    for to, message in (
        ("gguf", "to: got 'gguf'; allowed are .*latenttts"),
        ("original-codi", "to: layout 'original-codi' holds family codi; .* is 'coconut'"),
        ("simcot-coconut", "to: layout 'simcot-coconut' needs the tensors expainable_llm"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(on_disk.directory, tmp_path / "out", to)
    with pytest.raises(ValueError, match=r"target: .* exists; a new or empty directory is needed"):
        convert(on_disk.directory, on_disk.directory, "original-coconut")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
