"""Labels: counts of roll-outs, and what they depend on."""

from __future__ import annotations

import pytest
import torch

import latent_ext
from latent_ext.evaluation.problems import NamedProblem, shipped_problems
from latent_ext.models import LatentModel
from latent_ext.samplers import Sampler
from latent_ext.training.annotate import annotate
from latent_ext.training.labelled import LabelledQuestion
from latent_ext.training.labels import Labeller, LabelSettings
from latent_ext.training.shards import read_labels

NOISE = Sampler.parse("noise:0.6:relative")


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return latent_ext.load()


@pytest.fixture(scope="module")
def problems() -> list[NamedProblem]:
    return shipped_problems("test_5", 12)


def labelled(
    model: LatentModel, problems: list[NamedProblem], settings: LabelSettings
) -> list[LabelledQuestion]:
    labeller = Labeller(model, settings)
    return list(
        labeller.label(
            [p.id for p in problems], [p.question for p in problems], [str(p.answer) for p in problems]
        )
    )


@pytest.mark.parametrize("sampler", ["noise:0.6:relative", "dropout:0.2", "dropout:0.2:trajectory"])
def test_trajectories_and_answers_are_those_of_solve(
    model: LatentModel, problems: list[NamedProblem], sampler: str
) -> None:
    found = labelled(model, problems, LabelSettings(4, 2, Sampler.parse(sampler), seed=3))
    results = latent_ext.solve(
        model, [p.question for p in problems], n=4, sampler=sampler, seed=3, return_thoughts=True
    )
    greedy = latent_ext.solve(model, [p.question for p in problems], n=1, sampler="none")
    for question, result, single in zip(found, results, greedy, strict=True):
        assert question.answers == result.answers
        assert question.logprobs.tolist() == [trajectory.logprob for trajectory in result.trajectories]
        assert torch.equal(question.thoughts, torch.stack([t.thoughts for t in result.trajectories]))
        assert question.reference_answer == single.answer
        assert question.reference.tolist() == single.trajectories[0].tokens
        assert question.correct.tolist() == [answer == question.gold for answer in result.answers]


def test_a_questions_labels_do_not_depend_on_what_stands_beside_it_or_on_how_many_rollouts_fit(
    model: LatentModel, problems: list[NamedProblem], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LabelSettings(4, 5, NOISE)
    together = labelled(model, problems, settings)
    monkeypatch.setattr("latent_ext.training.labels._ROWS", 9)
    for place in (0, 7):
        (alone,) = labelled(model, problems[place : place + 1], settings)
        assert torch.equal(alone.thoughts, together[place].thoughts)
        assert torch.equal(alone.counts, together[place].counts)


def test_the_count_of_the_last_thought_is_the_trajectorys_own_outcome(
    model: LatentModel, problems: list[NamedProblem]
) -> None:
    for question in labelled(model, problems, LabelSettings(4, 3, NOISE)):
        assert torch.equal(question.counts[:, -1], question.correct * 3)
        assert int(question.counts.min()) >= 0
        assert int(question.counts.max()) <= 3


def test_more_rollouts_only_add_to_the_counts_of_fewer(
    model: LatentModel, problems: list[NamedProblem]
) -> None:
    few = labelled(model, problems, LabelSettings(4, 2, NOISE))
    many = labelled(model, problems, LabelSettings(4, 6, NOISE))
    for one, other in zip(few, many, strict=True):
        more = other.counts - one.counts
        assert int(more.min()) >= 0
        assert int(more.max()) <= 4
    assert any(not torch.equal(one.counts, other.counts) for one, other in zip(few, many, strict=True))


def test_golds_of_zero_and_questions_without_a_right_answer_are_kept(
    model: LatentModel, tmp_path: object
) -> None:
    story = "Mia has 19 apples. She loses 9. How many apples does Mia have now?"
    problems = [
        NamedProblem("zero", story, "0"),
        NamedProblem("ten", story, "10.0"),
        NamedProblem("never", story, "1234.5"),
    ]
    settings = LabelSettings(3, 2, Sampler.parse("noise:0.1:relative"))
    assert annotate(model, problems, f"{tmp_path}", settings) == 3
    flags = {question.id: (question.gold, question.flag) for question in read_labels(f"{tmp_path}")}
    assert flags == {"zero": ("0", "all_wrong"), "ten": ("10", "all_right"), "never": ("1234.5", "all_wrong")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trajectories": 0}, "trajectories: got 0"),
        ({"rollouts": 0}, "rollouts: got 0"),
        ({"policy": "greedy"}, "policy: got 'greedy'"),
        ({"policy": "noise-free"}, "rollouts: got 2; with policy"),
        ({"sampler": Sampler()}, "sampler: got 'none'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSettings(**({"trajectories": 4, "rollouts": 2, "sampler": NOISE} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (NamedProblem("a", "Mia has 3 apples.", None), "problem a: got answer None"),
        (NamedProblem("b", "Mia has 3 apples.", "three"), "problem b: got answer 'three'"),
        (NamedProblem("c", "Mia has 3 apples. " * 60, "3"), "problem c: question: its prompt has"),
    ],
)
def test_a_problem_that_cannot_be_labelled_is_named_before_anything_is_written(
    model: LatentModel, tmp_path: object, problem: NamedProblem, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        annotate(model, [problem], f"{tmp_path}/labels", LabelSettings(4, 2, NOISE))
