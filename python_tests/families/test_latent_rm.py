"""LatentRMs: GPT-2 with and without CODI's projector, Llama; real positions, and the published ones on a switch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_files import (
    HIDDEN,
    LATENT,
    own_tensors,
    projector,
    randomise,
    stock,
    tokenizer,
    write_latenttts,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import latent_ext
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards.published_positions import score_as_published

KINDS = {"gpt2": ("gpt2", False), "gpt2+projector": ("gpt2", True), "llama": ("llama", False)}
QUESTIONS = ("Anna has 12 tickets.", "7")


class Published:
    """A LatentRM on disk and its stock modules in float64; a COCONUT generator that fits it."""

    def __init__(self, kind: str, parent: Path, generator: torch.Generator) -> None:
        self.body, projected = KINDS[kind]
        hidden, words = HIDDEN[self.body], tokenizer(self.body, LATENT)
        hf, self.classifier = stock(self.body, len(words), generator), nn.Linear(hidden, 1)
        randomise(self.classifier, generator)
        self.projector = projector(hidden, generator) if projected else nn.Identity()
        self.hf = copy.deepcopy(hf).double()
        tensors = {name: value for name, value in own_tensors(hf).items() if not name.startswith("lm_head")}
        tensors |= {f"classifier.{name}": v.detach() for name, v in self.classifier.named_parameters()}
        tensors |= {f"projector.{name}": v.detach() for name, v in self.projector.named_parameters()}
        self.directory = parent / "rm"
        self.directory.mkdir()
        save_file(tensors, self.directory / "model.safetensors")
        (self.directory / "config.json").write_text(json.dumps(json.loads(hf.config.to_json_string())))
        generating = stock(self.body, len(words), generator)
        architecture = "COCONUTGPT2" if self.body == "gpt2" else "COCONUTLlama"
        write_latenttts(parent / "model", generating, architecture, {}, words)
        self.model: LatentModel = latent_ext.load(parent / "model", latent_length=3)

    @torch.no_grad()
    def scores(self, ids: Tensor, thoughts: Tensor, pads: int, answer: list[int]) -> Tensor:
        """One sequence left-padded as the published script does it: a mask, and positions that count the pads."""
        embed = self.hf.get_input_embeddings()
        tail = embed(torch.tensor([self.model.ids.end, *answer]))
        inputs = torch.cat([embed(torch.zeros(pads, dtype=torch.int64)), embed(ids), thoughts.double(), tail])
        mask = torch.ones(1, len(inputs), dtype=torch.int64)
        mask[0, :pads] = 0
        output = self.hf(
            inputs_embeds=inputs.unsqueeze(0), attention_mask=mask, output_hidden_states=True,
            position_ids=torch.arange(len(inputs)).unsqueeze(0),
        )  # fmt: skip
        hidden = output.hidden_states[-1][0, pads + len(ids) : pads + len(ids) + len(thoughts)]
        head = nn.Sequential(copy.deepcopy(self.projector), copy.deepcopy(self.classifier)).double()
        return head(hidden).squeeze(-1).float()


@pytest.fixture
def published(generator: torch.Generator, tmp_path: Path) -> Callable[[str], Published]:
    return lambda kind: Published(kind, tmp_path, generator)


ENGINES = {"gpt2": ("native", "modules", "reference"), "gpt2+projector": ("modules", "reference")}
ENGINES["llama"] = ENGINES["gpt2"]


@pytest.mark.parametrize(("kind", "engine"), [(kind, engine) for kind in KINDS for engine in ENGINES[kind]])
def test_step_scores_equal_a_plain_pass_at_real_positions(
    published: Callable[[str], Published], kind: str, engine: str
) -> None:
    files = published(kind)
    reward = latent_ext.load_reward(files.directory)
    results = latent_ext.solve(
        files.model, list(QUESTIONS), n=3, sampler="noise:0.4", reward=reward, engine=engine,
        return_thoughts=True, max_answer_tokens=3,
    )  # fmt: skip
    for question, result in zip(QUESTIONS, results, strict=True):
        for trajectory in result.trajectories:
            wanted = files.scores(files.model.encode(question), trajectory.thoughts, 0, [])
            assert_close(torch.tensor(trajectory.step_scores), wanted, "step_score")


@pytest.mark.parametrize("kind", KINDS)
def test_published_positions_count_the_pads_of_a_questions_trajectories(
    published: Callable[[str], Published], kind: str
) -> None:
    files = published(kind)
    reward = latent_ext.load_reward(files.directory, positions="published")
    how = {"n": 5, "sampler": "noise:0.6", "reward": reward, "max_answer_tokens": 12}
    result = latent_ext.solve(files.model, QUESTIONS[0], return_thoughts=True, **how)[0]
    assert result.settings["reward_positions"] == "published"
    longest = max(len(trajectory.tokens) for trajectory in result.trajectories)
    for trajectory in result.trajectories:
        pads = longest - len(trajectory.tokens)
        wanted = files.scores(files.model.encode(QUESTIONS[0]), trajectory.thoughts, pads, trajectory.tokens)
        assert_close(torch.tensor(trajectory.step_scores), wanted, "step_score")
    cut = latent_ext.solve(files.model, QUESTIONS[0], max_rows=2, **how)[0]
    assert cut.chosen == result.chosen
    assert all(trajectory.thoughts is None for trajectory in cut.trajectories)


def test_pads_move_the_scores_of_a_gpt2(published: Callable[[str], Published]) -> None:
    files = published("gpt2")
    reward = latent_ext.load_reward(files.directory)
    ids, thoughts = files.model.encode("7"), torch.randn(3, HIDDEN["gpt2"])
    short, long = score_as_published(reward, ids, [thoughts, thoughts], [[1], [1] * 9])
    assert_close(long, files.scores(ids, thoughts, 0, []), "step_score")
    assert_close(short, files.scores(ids, thoughts, 8, []), "step_score")
    assert not torch.allclose(short, long)


def test_the_native_engine_says_why_it_does_not_take_a_projected_reward(
    published: Callable[[str], Published],
) -> None:
    files = published("gpt2+projector")
    reward = latent_ext.load_reward(files.directory)
    with pytest.raises(
        RuntimeError, match="of its LatentRM: it projects hidden states before it scores them"
    ):
        latent_ext.solve(files.model, "7", n=1, reward=reward, engine="native")


def test_a_beam_that_keeps_all_scores_as_best_of_n_through_a_projector(
    published: Callable[[str], Published],
) -> None:
    files = published("gpt2+projector")
    reward = latent_ext.load_reward(files.directory)
    how = {"sampler": "noise:0.5", "reward": reward}
    for engine in ("modules", "reference"):
        every = latent_ext.solve(files.model, "7", n=4, engine=engine, **how)[0]
        beam = latent_ext.solve(files.model, "7", select="beam", beams=4, candidates=1, engine=engine, **how)[
            0
        ]
        assert [one.key for one in beam.trajectories] == [one.key for one in every.trajectories]
        for mine, other in zip(beam.trajectories, every.trajectories, strict=True):
            assert_close(torch.tensor(mine.step_scores), torch.tensor(other.step_scores), "step_score")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_reward_reads_back(published: Callable[[str], Published], kind: str, tmp_path: Path) -> None:
    read = latent_ext.load_reward(published(kind).directory)
    latent_ext.save_reward(read, tmp_path / "again")
    again = latent_ext.load_reward(tmp_path / "again")
    assert again.module.state_dict().keys() == read.module.state_dict().keys()
    for name, value in read.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value)


def test_a_generator_and_a_reward_are_not_taken_for_each_other(published: Callable[[str], Published]) -> None:
    files = published("gpt2")
    with pytest.raises(
        latent_ext.CheckpointError, match=r"'classifier\.weight' says that this is a LatentRM"
    ):
        latent_ext.load(files.directory)
    with pytest.raises(latent_ext.CheckpointError, match=r"'classifier\.weight' of shape .* is missing"):
        latent_ext.load_reward(files.directory.parent / "model")


def test_faults_of_a_projector_are_named(published: Callable[[str], Published]) -> None:
    files = published("gpt2+projector")
    path = files.directory / "model.safetensors"
    tensors = load_file(path)
    for change, message in (
        (lambda t: t.pop("projector.1.weight"), "'projector.1.weight' is missing"),
        (lambda t: t.pop("projector.4.bias"), "'projector.4.bias' of shape .* is missing"),
        (lambda t: t.update({"projector.1.weight": torch.ones(3)}), "'projector.1.weight' has 1 dimensions"),
    ):
        changed = dict(tensors)
        change(changed)
        save_file(changed, path)
        with pytest.raises(latent_ext.CheckpointError, match=message):
            latent_ext.load_reward(files.directory)


def test_other_positions_are_refused(published: Callable[[str], Published]) -> None:
    with pytest.raises(ValueError, match="positions: got 'left'; allowed are real, published"):
        latent_ext.load_reward(published("gpt2").directory, positions="left")  # type: ignore[arg-type]
