"""COCONUT from all its layouts: LatentTTS, Facebook's checkpoint files, SIM-CoT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parity import (
    ENGINES,
    QUESTIONS,
    STEPS,
    assert_agrees_with_reference,
    assert_equals_plain_loop,
    identity,
    ids_of,
)
from plain_loops import Plain
from published_files import EOS, LATENT, stock, tokenizer, write_latenttts, write_original_coconut
from torch import nn

import latent_ext
from latent_ext.samplers import Sampler

BASE = tokenizer("gpt2")
V = len(BASE)


def write(layout: str, directory: Path, hf: nn.Module) -> None:
    if layout == "latenttts":
        write_latenttts(directory, hf, "COCONUTGPT2", {}, tokenizer("gpt2", LATENT))
    elif layout == "simcot":
        beside = {
            "expainable_llm.transformer.wte.weight": torch.ones(3, 3),
            "expainable_llm.a.bias": torch.ones(2),
        }
        write_original_coconut(directory, hf, BASE, beside=beside)
    else:
        write_original_coconut(directory, hf, BASE, prefixed=layout == "original")


LAYOUTS = {"latenttts": 6, "original": 6, "CoT stage": 6, "simcot": 10}


@pytest.fixture
def published(generator: torch.Generator, tmp_path: Path) -> Callable[[str], tuple[Path, Plain]]:
    def make(layout: str) -> tuple[Path, Plain]:
        hf = stock("gpt2", V + 3, generator)
        write(layout, tmp_path / "model", hf)
        eos = BASE.convert_tokens_to_ids(EOS)
        return tmp_path / "model", Plain(copy.deepcopy(hf).double(), identity, end=V + 1, eos=eos)

    return make


@pytest.mark.parametrize("sigma", [0.0, 0.4])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_thoughts_and_answers_equal_a_plain_loop(
    published: Callable, layout: str, engine: str, sigma: float
) -> None:
    directory, plain = published(layout)
    model = latent_ext.load(directory, latent_length=STEPS)
    assert model.family.name == "coconut"
    prompts = [ids_of(BASE, question + "\n", V) for question in QUESTIONS]
    assert_equals_plain_loop(model, plain, prompts, engine, sigma)


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("engine", ["native", "modules"])
def test_engines_agree_under_dropout(published: Callable, engine: str, scope: str) -> None:
    model = latent_ext.load(published("original")[0], latent_length=STEPS)
    assert_agrees_with_reference(model, engine, Sampler.parse("dropout:0.2", scope=scope))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_its_own_number_of_thoughts(published: Callable, layout: str) -> None:
    assert latent_ext.load(published(layout)[0]).family.latent_length == LAYOUTS[layout]


def test_a_checkpoint_file_is_named_where_a_directory_holds_several(published: Callable) -> None:
    directory, _ = published("original")
    first = latent_ext.load(directory)
    (directory / "checkpoint_34").write_bytes((directory / "checkpoint_33").read_bytes())
    with pytest.raises(
        latent_ext.CheckpointError, match=r"several weight files \(checkpoint_33, checkpoint_34\)"
    ):
        latent_ext.load(directory)
    assert latent_ext.load(directory / "checkpoint_34").weights_hash == first.weights_hash


def test_config_and_tokenizer_come_from_the_base_where_the_directory_has_none(
    published: Callable, tmp_path: Path
) -> None:
    directory, _ = published("original")
    whole = latent_ext.load(directory)
    alone = tmp_path / "alone"
    alone.mkdir()
    (directory / "checkpoint_33").rename(alone / "checkpoint_33")
    with pytest.raises(
        latent_ext.CheckpointError, match="no base model is known for its width; name its directory"
    ):
        latent_ext.load(alone)
    assert latent_ext.load(alone, base=directory).weights_hash == whole.weights_hash
