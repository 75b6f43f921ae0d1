"""Switches: each has a family, allowed values and a line in docs/differences.md."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from zoo import ZOO, read_file, weight_file, write_file

import latent_ext
from latent_ext.models.semantics import SWITCHES, Semantics

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"cap": "reenter"}, "'cap' is none of family 'codi'; allowed are question, end_token, pads"),
        ({"pads": "seen"}, "pads: got 'seen'; 'masked' or 'visible' is needed"),
        ({"lora_alpha": "0"}, "lora_alpha: got '0'; a whole number >= 1 is needed"),
        ({"lora_alpha": 1.5}, "lora_alpha: got 1.5; a whole number >= 1 is needed"),
        ({"lora": "unmerged"}, "lora: got 'unmerged', but .* has no adapters"),
    ],
)
def test_a_bad_switch_is_named(
    generator: torch.Generator, tmp_path: Path, switches: dict, message: str
) -> None:
    on_disk = ZOO["LatentTTS CODI"](tmp_path, generator)
    with pytest.raises(ValueError, match=f"^switches: {message}"):
        latent_ext.load(on_disk.directory, switches=switches)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"stop": "fixed"}, "stop: got 'fixed'; 'argmax' or 'sampled' is needed"),
        ({"least_thoughts": -1}, "least_thoughts: got -1; a whole number >= 0 is needed"),
        ({"least_thoughts": 65}, "least_thoughts: got 65; at most latent_length = 64 is allowed"),
        ({"dropout_in_answer": "yes"}, "dropout_in_answer: got 'yes'; true or false is needed"),
        ({"speed": True}, "speed: got True; a whole number >= 0 is needed"),
    ],
)
def test_a_bad_switch_of_colar_is_named(
    generator: torch.Generator, tmp_path: Path, switches: dict, message: str
) -> None:
    on_disk = ZOO["LatentTTS CoLaR"](tmp_path, generator)
    with pytest.raises(ValueError, match=f"^switches: {message}"):
        latent_ext.load(on_disk.directory, switches=switches)


def test_an_end_token_that_is_not_the_last_row_cannot_be_excluded(
    generator: torch.Generator, tmp_path: Path
) -> None:
    on_disk = ZOO["LatentTTS CODI"](tmp_path, generator)
    excluded = {"switches": {"end_token": "excluded"}}
    rows = latent_ext.load(on_disk.directory).lm_head.shape[0]
    assert latent_ext.load(on_disk.directory, **excluded).answer_head.shape[0] == rows - 1
    path = weight_file(on_disk.directory)
    tensors = read_file(path)
    table = tensors["transformer.wte.weight"]
    write_file(tensors | {"transformer.wte.weight": torch.cat([table, table[:1]])}, path)
    with pytest.raises(
        ValueError, match=rf"^switches: end_token: .* last of {rows + 1} rows; its id is {rows - 1}"
    ):
        latent_ext.load(on_disk.directory, **excluded)


def test_values_may_be_texts_and_are_recorded_in_every_result(
    generator: torch.Generator, tmp_path: Path
) -> None:
    on_disk = ZOO["LatentTTS CoLaR"](tmp_path, generator)
    switches = {"speed": "5", "dropout_in_answer": "true", "stop": "sampled"}
    model = latent_ext.load(on_disk.directory, switches=switches, latent_length=2)
    result = latent_ext.solve(model, "7", n=1, sampler="none", max_answer_tokens=1)[0]
    assert result.settings["switches"] == {"stop": "sampled", "dropout_in_answer": True, "speed": 5}


def test_a_family_without_switches_behaves_plainly(generator: torch.Generator, tmp_path: Path) -> None:
    on_disk = ZOO["LatentTTS COCONUT"](tmp_path, generator)
    assert latent_ext.load(on_disk.directory).semantics == Semantics()


def test_every_switch_and_every_value_stands_in_the_table_of_differences() -> None:
    text = DIFFERENCES.read_text(encoding="utf-8")
    kinds = get_type_hints(Semantics)
    for name in {name for names in SWITCHES.values() for name in names}:
        values = {bool: ("true", "false"), int: ("N",)}.get(kinds[name]) or get_args(kinds[name])
        for value in values:
            # Rows that never stop by themselves are no option of a family whose rows do.
            assert f"`{name}={value}`" in text or value == "fixed", (name, value)
