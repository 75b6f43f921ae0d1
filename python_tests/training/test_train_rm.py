"""`latent-ext train-rm`: from labels to a LatentRM, on a few questions."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import latent_ext
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.rewards import AnswerReading, Seen
from latent_ext.samplers import Sampler
from latent_ext.training.annotate import annotate
from latent_ext.training.labels import LabelSettings
from latent_ext.training.recipe import Recipe, read_recipe
from latent_ext.training.shards import read_labels
from latent_ext_cli.app import main

pytest.importorskip("accelerate")

from latent_ext.training.train import train_rm

SETTINGS = LabelSettings(4, 2, Sampler.parse("noise:0.6:relative"), max_answer_tokens=16)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("labels")
    model = latent_ext.load()
    annotate(model, shipped_problems("valid", 60)[-40:], directory / "train", SETTINGS)
    annotate(model, shipped_problems("test_6", 24), directory / "valid", SETTINGS)
    return directory


def recipe(labels: Path, output: Path, **changes: object) -> Recipe:
    settings = {
        "labels": str(labels / "train"), "validation": str(labels / "valid"), "output": str(output),
        "batch_size": 4, "evaluations": 2, "epochs": 2.0,
    }  # fmt: skip
    return Recipe(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "contrastive", "form": "published", "running": False, "optimizer": "adamw"},
        {"loss": "bce", "reference": "answer", "bf16": True},
        {"loss": "beta_binomial", "order_preference": 0.5},
        {"loss": "bce", "reads": "answer", "order_preference": 0.5, "bf16": True},
        {"loss": "beta_binomial", "reads": "answer", "reference": "answer", "gold_answer": 0.0},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_what_it_writes_scores_trajectories_and_says_what_it_was_trained_on(
    labels: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    figures = train_rm(recipe(labels, tmp_path / "run", **changes))
    assert {
        "auc",
        "pass@1",
        "best_of_4",
        "weighted_vote_4",
        "majority_4",
        "recall@2_of_4",
        "loss",
    } <= figures.keys()
    assert ("calibration_error" in figures) == (changes["loss"] != "contrastive")
    reward = latent_ext.load_reward(tmp_path / "run" / "best")
    assert reward.reference == changes.get("reference", "none")
    assert reward.answer_format == ("### {answer}" if changes.get("reads") == "answer" else None)
    assert (reward.module.concentration is not None) == (changes["loss"] == "beta_binomial")
    reading = AnswerReading.load(tmp_path / "run" / "answer_reading.json")
    assert reading.trained_on["sampler"] == "noise:0.6:relative"
    model = latent_ext.load()
    assert reward.trained_on["generator_hash"] == model.weights_hash
    assert reward.trained_on["sampler"] == "noise:0.6:relative"
    question = shipped_problems("test_5", 1)[0].question
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = latent_ext.solve(model, question, n=4, sampler="noise:0.6:relative", reward=reward)
    assert len(set(result.scores)) > 1
    with pytest.warns(
        UserWarning, match=r"trained on trajectories of sampler 'noise:0\.6:relative', not 'dropout:0\.1'"
    ):
        latent_ext.solve(model, question, n=2, sampler="dropout:0.1", reward=reward)


def test_the_published_layout_is_written_beside_ours_where_it_can_hold_the_model(
    labels: Path, tmp_path: Path
) -> None:
    train_rm(recipe(labels, tmp_path / "run", loss="beta_binomial"))
    ours, published = (latent_ext.load_reward(tmp_path / "run" / name) for name in ("best", "best_latenttts"))
    assert published.module.concentration is None
    assert published.trained_on == {}
    assert torch.equal(published.head_weight, ours.head_weight)
    ours.reference = "answer"
    with pytest.raises(ValueError, match="layout: 'latenttts' has thoughts alone"):
        latent_ext.save_reward(ours, tmp_path / "other", layout="latenttts")


def test_reading_answers_it_learns_to_write_the_gold_one(labels: Path, tmp_path: Path) -> None:
    def gold_likelihood(directory: str) -> float:
        reward, model = latent_ext.load_reward(tmp_path / directory / "best"), latent_ext.load()
        # The weights of what is known otherwise, and of the head, are left out of what is compared.
        reward.module.classifier.weight.zero_()
        reward.module.classifier.bias.zero_()
        reward.module.evidence.weight.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
        questions = read_labels(labels / "train")
        seen = [
            Seen(q.prompt, list(q.thoughts.float()), [[]] * 4, [q.gold] * 4, [0.0] * 4, None, [])
            for q in questions
        ]
        scores = [score for one in seen for score in reward.score(model, one)]
        return sum(scores) / len(scores)

    how = {"reads": "answer", "loss": "bce", "mixed_only": False, "epochs": 4.0}
    train_rm(recipe(labels, tmp_path / "without", gold_answer=0.0, **how))
    train_rm(recipe(labels, tmp_path / "with", gold_answer=1.0, **how))
    assert gold_likelihood("with") > gold_likelihood("without") + 0.1


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(labels: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_rm(recipe(labels, whole, patience=9))
    train_rm(recipe(labels, resumed, patience=9))
    steps = sorted(resumed.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(steps) == 2
    for path in steps[1].iterdir():
        path.unlink()
    steps[1].rmdir()
    train_rm(recipe(labels, resumed, patience=9), resume=True)
    first, second = (latent_ext.load_reward(run / "best").module.state_dict() for run in (whole, resumed))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_command_takes_replacements_and_prints_its_figures(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"labels: {labels / 'train'}\nvalidation: {labels / 'valid'}\nloss: bce\nlearning_rate: 1e-3\n"
    )
    arguments = ["latent-ext", "train-rm", str(path), "--json", "--set", f"output={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--set", "loss=contrastive", "--set", "evaluations=1"])
    warned: list[str] = []
    monkeypatch.setattr("transformers.trainer_callback.logger.warning", warned.append)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    figures = json.loads(capsys.readouterr().out)
    assert 0.0 <= figures["auc"] <= 1.0
    assert "calibration_error" not in figures
    assert not [text for text in warned if "early stopping" in text]


@pytest.mark.parametrize(
    ("text", "replaced", "message"),
    [
        ("output: x\nvalidation: y", [], "recipe: the key 'labels' is missing"),
        (
            "labels: x\nvalidation: y\noutput: z\nlos: bce",
            [],
            "recipe: got the key 'los' \\(did you mean 'loss'\\?\\); allowed are labels",
        ),
        ("labels: x\nvalidation: y\noutput: z", ["loss=ce"], "loss: got 'ce'; allowed are contrastive, bce"),
        ("labels: x\nvalidation: y\noutput: z", ["batch_size=0"], "batch_size: got 0"),
        ("labels: x\nvalidation: y\noutput: z", ["batch_size=yes"], "batch_size: got True; a int is needed"),
        ("labels: x\nvalidation: y\noutput: z", ["epochs=inf"], "epochs: got 'inf'|epochs: got inf"),
        ("labels: x\nvalidation: y\noutput: z", ["loss"], "set: got 'loss'; key=value is needed"),
        ("[1, 2", [], "is not YAML"),
        ("- a", [], "holds list; keys and values are needed"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_by_its_key(
    tmp_path: Path, text: str, replaced: list[str], message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(path, replaced)


def test_validation_questions_that_rank_nothing_are_refused_before_training(
    labels: Path, tmp_path: Path
) -> None:
    alone = replace(SETTINGS, trajectories=1)  # a question of one trajectory is all right or all wrong
    annotate(latent_ext.load(), shipped_problems("test_6", 3), tmp_path / "alone", alone)
    asked = recipe(labels, tmp_path / "run", validation=str(tmp_path / "alone"))
    with pytest.raises(
        ValueError, match=r"^validation: none of the 3 questions of .* without which there is no auc"
    ):
        train_rm(asked)
    with pytest.raises(ValueError, match=r"^metric: got 'los' \(did you mean 'loss'\?\); of these 3"):
        train_rm(replace(asked, metric="los"))
    assert not (tmp_path / "run").exists()


def test_labels_of_another_generator_or_sampler_are_refused(labels: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    settings = LabelSettings(4, 1, Sampler.parse("dropout:0.2"), "outcome", max_answer_tokens=16)
    annotate(latent_ext.load(), shipped_problems("valid", 2), other, settings)
    with pytest.raises(
        ValueError, match=r"validation: .* has sampler 'dropout:0\.2'; the labels have 'noise:0.6:relative'"
    ):
        train_rm(recipe(labels, tmp_path / "run", validation=str(other)))
    run = labels / "train" / "run.json"
    text = run.read_text()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text(text.replace(json.loads(text)["generator_hash"], "0" * 16))
    with pytest.raises(ValueError, match="are of the generator 0000000000000000"):
        train_rm(replace(recipe(labels, tmp_path / "run"), labels=str(broken), validation=str(broken)))


def test_a_metric_that_the_validation_does_not_define_is_refused(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"metric: got 'best_of_64' .*; of these 24 validation questions there are auc"
    ):
        train_rm(recipe(labels, tmp_path / "run", metric="best_of_64"))
