"""The demonstration on a few problems: the relations that hold whatever the weights are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.evaluation.demonstration import Demonstration, Row, demonstrate
from latent_ext.evaluation.problems import NamedProblem, shipped_problems
from latent_ext.models import LatentModel, load
from latent_ext.rewards import AnswerReading, LatentRM
from latent_ext.rewards.latent_rm import LatentRMModule
from latent_ext.training.reading import from_generator

N = 4


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return load()


@pytest.fixture(scope="module")
def reward() -> LatentRM:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        module = LatentRMModule(GPT2Model(GPT2Config.from_pretrained(SHIPPED_GENERATOR)))
    module.eval().requires_grad_(False)
    return LatentRM(module, "random")


@pytest.fixture(scope="module")
def reading(model: LatentModel) -> LatentRM:
    """It scores an answer by what the generator knows of it."""
    module = from_generator(model, known_answers=AnswerReading(0.4, 0.6)).requires_grad_(False)
    return LatentRM(module.eval(), "reading", answer_format="### {answer}")


@pytest.fixture(scope="module")
def reports() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def shown(
    model: LatentModel, reward: LatentRM, reading: LatentRM, reports: list[tuple[str, int, int]]
) -> Demonstration:
    return demonstrate(
        model,
        reward,
        reading,
        shipped_problems("valid", 6),
        n=N,
        sampler="dropout:0.3",
        seeds=(0, 1),
        report=lambda *report: reports.append(report),
    )


@pytest.fixture(scope="module")
def row(shown: Demonstration) -> Callable[[str], Row]:
    by_name = {(found.method, found.n): found for found in shown.rows}
    return lambda method, n=N: by_name[method, n]


def test_every_method_and_control_has_its_row_once(shown: Demonstration) -> None:
    assert [(found.method, found.n, found.control) for found in shown.rows] == [
        ("greedy, noise-free", 1, True),
        ("pass@1 (one sampled trajectory)", 1, False),
        ("coverage (a perfect selector)", N, False),
        ("majority vote", N, False),
        ("weighted vote, LatentRM", N, False),
        ("best-of-N, LatentRM", N, False),
        ("best-of-N, LatentRM that reads answers", N, False),
        ("token temperature 1: pass@1", 1, True),
        ("token temperature 1: coverage", N, True),
        ("token temperature 1: majority vote", N, True),
    ]
    assert (shown.problems, shown.seeds) == (6, 2)


def test_accuracies_and_their_intervals_lie_between_0_and_1(shown: Demonstration) -> None:
    for found in shown.rows:
        low, high = found.accuracy.interval
        assert 0.0 <= found.accuracy.mean <= 1.0
        assert 0.0 <= low < high <= 1.0


def test_no_selection_and_no_single_trajectory_beats_coverage(row: Callable[..., Row]) -> None:
    coverage = row("coverage (a perfect selector)").accuracy.mean
    assert coverage >= row("pass@1 (one sampled trajectory)", 1).accuracy.mean
    selections = ("best-of-N, LatentRM", "best-of-N, LatentRM that reads answers")
    for method in (*selections, "majority vote", "weighted vote, LatentRM"):
        assert coverage >= row(method).accuracy.mean
    control = row("token temperature 1: coverage").accuracy.mean
    assert control >= row("token temperature 1: pass@1", 1).accuracy.mean
    assert control >= row("token temperature 1: majority vote").accuracy.mean


def test_seeds_are_told_apart_except_for_greedy_answers(shown: Demonstration) -> None:
    assert shown.rows[0].accuracy.seed_spread is None
    assert all(found.accuracy.seed_spread is not None for found in shown.rows[1:])


def test_each_phase_reports_up_to_its_end(shown: Demonstration, reports: list[tuple[str, int, int]]) -> None:
    ends = {phase: (done, total) for phase, done, total in reports}
    assert ends == {
        "noise-free greedy answer": (6, 6),
        "latent sampling (seed 1 of 2)": (24, 24),
        "reading answers (seed 1 of 2)": (6, 6),
        "token temperature 1 (seed 1 of 2)": (24, 24),
        "latent sampling (seed 2 of 2)": (24, 24),
        "reading answers (seed 2 of 2)": (6, 6),
        "token temperature 1 (seed 2 of 2)": (24, 24),
    }


@pytest.mark.parametrize(("n", "sizes"), [(2, [2]), (4, [4]), (5, [4, 5])])
def test_best_of_n_is_shown_once_at_each_size(
    model: LatentModel, reward: LatentRM, reading: LatentRM, n: int, sizes: list[int]
) -> None:
    shown = demonstrate(model, reward, reading, shipped_problems("valid", 1), n=n, sampler="none", seeds=(0,))
    assert [found.n for found in shown.rows if found.method.startswith("best-of-N")] == sizes * 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n": 0}, "n: got 0"),
        ({"sampler": "salt"}, "sampler: got"),
        ({"seeds": ()}, "seeds"),
        ({"problems": []}, "problems"),
        ({"problems": [NamedProblem("a", "7", None)]}, "a has answer None"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_computed(
    model: LatentModel, reward: LatentRM, reading: LatentRM, changes: dict, named: str
) -> None:
    reports: list[tuple] = []
    given = {"problems": shipped_problems("valid", 1), "n": 1, "sampler": "none", "seeds": (0,)} | changes
    with pytest.raises(ValueError, match=named):
        demonstrate(model, reward, reading, report=lambda *report: reports.append(report), **given)
    assert reports == []
