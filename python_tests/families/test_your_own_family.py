"""docs/your-own-family.md runs as it stands, and a rule's contract holds: rows, memory, ends, engines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_checkpoints import QUESTIONS, answer, assert_rows_agree, engine_of, sample
from random_models import random_llama_model, random_model
from torch import Tensor, nn
from zoo import ZOO

import latent_ext
from latent_ext.engine import choose_engine
from latent_ext.models.coconut import Coconut
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.semantics import Semantics
from latent_ext.models.thought_heads import projector_head
from latent_ext.models.thought_rule import Draw, NextThought
from latent_ext.samplers import Sampler

PAGE = Path(__file__).parents[2] / "docs" / "your-own-family.md"
BODIES = {"gpt2": random_model, "llama": random_llama_model}


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's code blocks leave, run in order."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    assert len(blocks) >= 4
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec", dont_inherit=True), names)
    return names


def test_the_page_runs_as_it_stands_and_echo_ends_where_it_settles(page: dict[str, Any]) -> None:
    lengths = page["lengths"]
    assert min(lengths) < 8, "no trajectory of the page settles: the example would not show an end"


def test_the_family_of_the_page_is_a_short_file() -> None:
    first = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert first is not None
    assert len(first.group(1).splitlines()) < 60


@pytest.mark.parametrize("text", ["none", "noise:0.5:relative", "dropout:0.2+noise:0.2"])
@pytest.mark.parametrize("body", BODIES)
def test_engines_agree_on_the_family_of_the_page(
    generator: torch.Generator, page: dict[str, Any], body: str, text: str
) -> None:
    model = BODIES[body](generator)
    model.family = page["Echo"](latent_length=6, settled=0.9)
    prompts = [model.encode(question) for question in QUESTIONS]
    fast, slow = (
        sample(engine_of(model, engine), prompts, text, count=3) for engine in ("modules", "reference")
    )
    assert_rows_agree(fast, slow, "latent_phase")


def test_a_row_that_ends_by_its_memory_ends_there_whatever_the_others_do(generator: torch.Generator) -> None:
    """Memory follows its row while others leave: each row counts its own steps up to its key's last two bits."""

    @dataclass(frozen=True)
    class Counting:
        randomness: tuple[str, ...] = ("noise",)

        def next_thought(self, hidden: Tensor, memory: Tensor | None, draw: Draw) -> NextThought:
            done = torch.zeros_like(draw.keys) if memory is None else memory
            return NextThought(hidden, done == (draw.keys & 3), done + 1)

    @dataclass(frozen=True)
    class Counted(Coconut):
        def thought_head(self, model: nn.Module) -> Counting:  # type: ignore[override]
            return Counting()

    model = random_model(generator)
    model.family = Counted(latent_length=3)
    prompts = [model.encode(question) for question in QUESTIONS]
    for engine in ("modules", "reference"):
        run = sample(engine_of(model, engine), prompts, "noise:0.1", count=6)
        assert run.counts is not None
        assert run.counts.tolist() == [min(3, int(key) & 3) for key in run.request.keys.reshape(-1)]
        assert len(answer(engine_of(model, engine), run).tokens) == 12


def test_a_rule_without_ends_thinks_the_most_and_its_results_are_those_of_the_same_head(
    generator: torch.Generator,
) -> None:
    """COCONUT written as a rule gives COCONUT's thoughts and answers."""

    @dataclass(frozen=True)
    class Same:
        randomness: tuple[str, ...] = ("dropout", "noise")

        def next_thought(self, hidden: Tensor, memory: Tensor | None, draw: Draw) -> NextThought:
            return NextThought(hidden)

    @dataclass(frozen=True)
    class CoconutRule(Coconut):
        def thought_head(self, model: nn.Module) -> Same:  # type: ignore[override]
            return Same()

    stated = random_model(generator)
    stated.family = Coconut(latent_length=4)
    ruled = LatentModel(stated.hf, stated.tokenizer, CoconutRule(latent_length=4), stated.ids, "rule")
    prompts = [stated.encode(question) for question in QUESTIONS]
    for scope in ("latent", "prompt+latent"):
        sampler = Sampler.parse("dropout:0.2+noise:0.3", scope=scope)  # type: ignore[arg-type]
        for engine in ("modules", "reference"):
            runners = engine_of(ruled, engine), engine_of(stated, engine)
            got, wanted = (sample(runner, prompts, sampler) for runner in runners)
            assert_rows_agree(got, wanted, "latent_phase")
            tokens = [answer(runner, run).tokens for runner, run in zip(runners, (got, wanted), strict=True)]
            assert sum(a == b for a, b in zip(*tokens, strict=True)) >= got.rows - 1


def test_every_engine_says_whether_it_runs_a_rule(generator: torch.Generator, page: dict[str, Any]) -> None:
    model = random_model(generator)
    model.family = page["Echo"]()
    assert choose_engine(model)[1].name == "modules"
    with pytest.raises(RuntimeError, match=r"native.*formed by a rule in Python \(EchoRule\)"):
        choose_engine(model, "native")


def test_load_takes_a_family_object_and_its_own_length(page: dict[str, Any]) -> None:
    assert latent_ext.load(family=page["Echo"](latent_length=5)).family.latent_length == 5
    assert latent_ext.load(family=page["Echo"](), latent_length=2).family.latent_length == 2


def test_what_is_no_family_and_switches_beside_an_object_are_refused(page: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"^family: got int; a name or an object with the methods of Family"):
        latent_ext.load(family=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^switches: got pads; a family object has semantics of its own"):
        latent_ext.load(family=page["Echo"](), switches={"pads": "visible"})
    with pytest.raises(ValueError, match=r"^latent_length: got 0; a whole number of thoughts >= 1 is needed"):
        latent_ext.load(family=page["Echo"](), latent_length=0)


def test_a_rule_with_semantics_that_need_a_head_is_refused(
    generator: torch.Generator, page: dict[str, Any]
) -> None:
    model = random_model(generator)
    model.family = page["Echo"]()
    object.__setattr__(model.family, "semantics", Semantics(pads="visible"))
    with pytest.raises(ValueError, match=r"^family: 'echo' has semantics .* pads='visible'"):
        choose_engine(model)


def test_an_object_finds_the_modules_of_a_published_layout(
    generator: torch.Generator, tmp_path: Path, page: dict[str, Any]
) -> None:
    """A CODI checkpoint read with a family of one's own: its projector stays on the model object."""

    @dataclass(frozen=True)
    class Projected(page["Halved"]):  # type: ignore[misc,name-defined]
        def thought_head(self, model: nn.Module) -> ThoughtHead:
            return projector_head(model.get_submodule("projector"))

    on_disk = ZOO["LatentTTS CODI"](tmp_path, generator)
    model = latent_ext.load(on_disk.directory, family=Projected())
    codi = latent_ext.load(on_disk.directory)
    assert model.weights_hash == codi.weights_hash
    assert model.family.name == "halved"
    result = latent_ext.solve(model, "7", n=2, sampler="noise:0.1", return_thoughts=True)[0]
    assert all(trajectory.steps == 4 for trajectory in result.trajectories)


def test_a_beam_over_rows_that_end_by_themselves_is_refused(page: dict[str, Any]) -> None:
    model, reward = latent_ext.load(family=page["Echo"]()), latent_ext.load_reward()
    with pytest.raises(
        ValueError, match=r"^beam: .* rows end their thoughts by themselves in the family 'echo'"
    ):
        latent_ext.solve(model, page["question"], sampler="noise:0.1", reward=reward, select="beam")
