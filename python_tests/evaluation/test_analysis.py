"""Every measure of thoughts on a constructed case whose right answer is known."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import latent_ext
from latent_ext.evaluation.analysis import (
    DISTANCES,
    GROUPS,
    PARTS,
    AnalysisPlan,
    ThoughtPool,
    analyse,
    distances,
    diversity_sweep,
    effective_rank,
    equal_compute,
    fidelity,
    intermediate_values,
    map_thoughts,
    mean_over_questions,
    movements,
    rank_across,
    rank_within,
    read_out,
    sample_pools,
    steps_against_width,
)
from latent_ext.evaluation.analysis.of_recipe import analyse_recipe, write_analysis
from latent_ext.evaluation.analysis.pools import pool_of
from latent_ext.evaluation.analysis.read_out import value_tokens
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.evaluation.recipe import as_recipe
from latent_ext.ops.tolerances import assert_close
from latent_ext_cli.app import app

NOISE = "noise:0.6:relative"


def pool(thoughts: torch.Tensor, correct: list[bool] | None = None, **more: object) -> ThoughtPool:
    n, steps, _ = thoughts.shape
    flags = torch.tensor(correct if correct is not None else [False] * n)
    return ThoughtPool(thoughts.float(), torch.full((n,), steps), flags, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> latent_ext.LatentModel:
    return latent_ext.load()


@pytest.mark.parametrize("kind", DISTANCES)
def test_identical_trajectories_are_at_distance_0_exactly(kind: str, generator: torch.Generator) -> None:
    same = torch.randn(1, 3, 8, generator=generator).expand(5, 3, 8)
    assert [mean.mean for mean in distances([pool(same)], kind)] == [0.0, 0.0, 0.0]


def test_opposite_thoughts_are_at_cosine_distance_2_and_orthogonal_ones_at_1() -> None:
    x = torch.tensor([[[1.0, 0.0]], [[-3.0, 0.0]]])
    y = torch.tensor([[[2.0, 0.0]], [[0.0, 5.0]]])
    assert distances([pool(x)])[0].mean == 2.0
    assert distances([pool(y)])[0].mean == pytest.approx(1.0)
    assert distances([pool(x)], "euclidean")[0].mean == 4.0


def test_groups_of_pairs_hold_the_pairs_that_their_names_say() -> None:
    # Right ones at 0 and 1, wrong ones at 10 and 13: distances within and between are all different.
    thoughts = torch.tensor([0.0, 1.0, 10.0, 13.0])[:, None, None]
    flagged = pool(thoughts, [True, True, False, False])
    found = {group: distances([flagged], "euclidean", group)[0].mean for group in GROUPS}
    assert found == {"all": 8.0, "right-right": 1.0, "right-wrong": 11.0, "wrong-wrong": 3.0}


def test_a_question_without_such_a_pair_does_not_enter_the_mean() -> None:
    thoughts = torch.tensor([0.0, 2.0])[:, None, None]
    pools = [pool(thoughts, [True, True]), pool(thoughts, [True, False])]
    mean = distances(pools, "euclidean", "right-wrong")[0]
    assert (mean.mean, mean.questions) == (2.0, 1)
    assert distances(pools, "euclidean", "wrong-wrong")[0].mean is None


def test_a_trajectory_that_has_ended_does_not_enter_later_steps() -> None:
    thoughts = torch.tensor([[[0.0], [0.0]], [[1.0], [4.0]], [[5.0], [math.nan]]])
    ragged = ThoughtPool(thoughts, torch.tensor([2, 2, 1]), torch.zeros(3, dtype=torch.bool))
    assert [mean.mean for mean in distances([ragged], "euclidean")] == [10 / 3, 4.0]
    assert [mean.mean for mean in movements([ragged], "euclidean")] == [1.5]


def test_the_inter_step_distance_of_a_straight_walk_is_its_step() -> None:
    walk = torch.arange(4.0)[None, :, None] * torch.tensor([3.0, 4.0])
    assert [mean.mean for mean in movements([pool(walk)], "euclidean")] == [5.0, 5.0, 5.0]


def test_the_effective_rank_of_orthonormal_rows_is_their_number() -> None:
    assert effective_rank(torch.eye(6), centred=False) == 6.0
    # Around their mean, n orthonormal rows spread equally over n - 1 directions.
    assert effective_rank(torch.eye(6)) == pytest.approx(5.0)


def test_the_effective_rank_counts_a_line_as_1_and_a_point_as_0(generator: torch.Generator) -> None:
    direction = torch.randn(16, generator=generator, dtype=torch.float64)
    line = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * direction
    assert effective_rank(line) == 1.0
    assert effective_rank(direction.expand(7, 16)) == 0.0


def test_rank_within_looks_at_a_question_and_rank_across_at_all_of_them() -> None:
    same = torch.eye(4)[:, None, :]
    pools = [pool(same[[b, b, b]], noise_free=same[b]) for b in range(4)]
    assert rank_within(pools)[0].mean == 0.0
    assert rank_across(pools) == [pytest.approx(3.0)]


def test_fidelity_is_whole_without_noise_and_falls_with_its_angle() -> None:
    base = torch.tensor([[2.0, 0.0]])
    turned = torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]]])
    assert fidelity([pool(turned[:1], noise_free=base)])[0].mean == 1.0
    assert fidelity([pool(turned[:1], noise_free=base)], "relative")[0].mean == 0.0
    assert fidelity([pool(turned, noise_free=base)])[0].mean == pytest.approx(0.5)
    assert fidelity([pool(turned, noise_free=base)], "relative")[0].mean == pytest.approx(math.sqrt(2) / 2)


def test_a_planted_token_is_read_out_where_it_was_planted(model: latent_ext.LatentModel) -> None:
    chains = [["<<19-9=10>>", "<<10*3=30>>"], ["<<2+2=4>>", "<<4*4=16>>"]]
    head = torch.eye(len(model.lm_head))
    tokens = {value: next(iter(value_tokens(model.tokenizer, value))) for value in ("10", "4", "16")}
    other = model.tokenizer.encode("+", add_special_tokens=False)[0]
    # Question 0: both trajectories name step 1 at thought 2. Question 1: half of them name step 2 at thought 1.
    first = torch.stack([head[[other, tokens["10"]]], head[[other, tokens["10"]]]])
    second = torch.stack([head[[tokens["16"], other]], head[[other, other]]])
    found = read_out([pool(first), pool(second)], chains, head, model.tokenizer)
    assert found.top[1][:, :, 0].tolist() == [[tokens["16"], other], [other, other]]
    assert [mean.mean for mean in found.agreement] == [0.5, 1.0]
    assert [mean.mean for mean in found.any_step] == [0.25, 0.5]
    assert (found.names[1][0].mean, found.names[0][1].mean, found.names[0][0].mean) == (0.5, 0.25, 0.0)
    assert [mean.mean for mean in found.any_other] == [0.0, 0.0]


def test_values_are_read_from_the_steps_of_a_chain() -> None:
    assert intermediate_values(["<<2*3=6>>", "<<6/4=1.50>>", "no result"]) == ["6", "1.5", None]


def test_a_value_is_named_by_its_last_or_first_token(model: latent_ext.LatentModel) -> None:
    spelled = {part: value_tokens(model.tokenizer, "137", part) for part in ("first", "last")}
    assert {part: [model.tokenizer.decode([t]) for t in ids] for part, ids in spelled.items()} == {
        "first": ["1"],
        "last": ["7"],
    }


def test_pca_finds_a_plane_and_keeps_its_distances(generator: torch.Generator) -> None:
    plane = torch.linalg.qr(torch.randn(12, 2, generator=generator, dtype=torch.float64)).Q
    flat = torch.randn(6, 4, 2, generator=generator, dtype=torch.float64)
    lifted = flat @ plane.T
    found = map_thoughts(pool(lifted, noise_free=lifted[0].float()))
    assert sum(found.explained or ()) == pytest.approx(1.0)
    assert_close(
        torch.from_numpy(found.noise_free).float(), torch.from_numpy(found.sampled[0]).float(), "thought"
    )
    apart = torch.cdist(flat.reshape(-1, 2), flat.reshape(-1, 2))
    placed = torch.from_numpy(found.sampled.reshape(-1, 2))
    assert_close(torch.cdist(placed, placed).float(), apart.float(), "thought")


@pytest.mark.parametrize(
    ("method", "package"), [("tsne", "sklearn"), pytest.param("umap", "umap", marks=pytest.mark.slow)]
)
def test_a_neighbour_map_keeps_far_clusters_apart(
    method: str, package: str, generator: torch.Generator
) -> None:
    pytest.importorskip(package)
    near = torch.randn(12, 2, 8, generator=generator) * 0.1
    near[6:] += 50.0
    found = map_thoughts(pool(near, [True] * 6 + [False] * 6, noise_free=near[0]), method)
    one, other = found.sampled[found.correct].reshape(-1, 2), found.sampled[~found.correct].reshape(-1, 2)
    apart = np.linalg.norm(one.mean(axis=0) - other.mean(axis=0))
    assert apart > np.linalg.norm(one - one.mean(axis=0), axis=1).mean()


def test_a_map_method_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ModuleNotFoundError, match="extra analysis"):
        map_thoughts(pool(torch.eye(6)[:, None, :], noise_free=torch.eye(6)[:1]), "umap")


def test_an_interval_covers_the_mean_and_shrinks_to_it_where_all_questions_agree() -> None:
    mean = mean_over_questions([0.0, 1.0, 2.0, 3.0])
    assert mean.low is not None
    assert mean.high is not None
    assert 0.0 < mean.low < 1.5 < mean.high < 3.0
    assert mean_over_questions([2.0, 2.0]) == type(mean)(2.0, 2.0, 2.0, 2)
    assert mean_over_questions([1.0]).low is None


@pytest.fixture(scope="module")
def problems() -> tuple[list[str], list[str]]:
    listed = shipped_problems("test_5", 6)
    return [problem.question for problem in listed], [str(problem.answer) for problem in listed]


def test_pools_of_a_run_hold_every_trajectory(
    model: latent_ext.LatentModel, problems: tuple[list[str], list[str]]
) -> None:
    settings = {"decode": "all", "return_thoughts": True}
    greedy = latent_ext.solve(model, problems[0], n=1, sampler="none", **settings)
    results, pools = sample_pools(model, *problems, n=4, sampler=NOISE, noise_free=greedy)
    for result, gold, made in zip(results, problems[1], pools, strict=True):
        assert made.correct.tolist() == [answer == gold for answer in result.answers]
        assert torch.equal(made.thoughts[2], result.trajectories[2].thoughts)
    # Sampling acts from the first thought on, and without it nothing is left to measure.
    assert all(mean.mean > 0.0 for mean in distances(pools))
    _, still = sample_pools(model, *problems, n=3, sampler="none", noise_free=greedy)
    assert [mean.mean for mean in distances(still, "euclidean")] == [0.0] * 6
    assert [mean.mean for mean in fidelity(still, "relative")] == [0.0] * 6


def test_a_trajectory_with_a_thought_that_is_not_finite_is_left_out_and_counted(
    model: latent_ext.LatentModel, problems: tuple[list[str], list[str]]
) -> None:
    [result] = latent_ext.solve(model, problems[0][0], n=3, sampler=NOISE, decode="all", return_thoughts=True)
    result.trajectories[1].thoughts[2, 0] = math.nan
    made = pool_of(result, problems[1][0])
    assert (len(made.thoughts), made.left_out) == (2, 1)


def test_results_without_thoughts_or_answers_are_refused(
    model: latent_ext.LatentModel, problems: tuple[list[str], list[str]]
) -> None:
    [bare] = latent_ext.solve(model, problems[0][0], n=2, sampler=NOISE, decode="all")
    with pytest.raises(ValueError, match="return_thoughts=True"):
        pool_of(bare, "1")


def test_a_sweep_grows_in_diversity_and_starts_at_none(
    model: latent_ext.LatentModel, problems: tuple[list[str], list[str]]
) -> None:
    points = diversity_sweep(model, *problems, ["none", "noise:0.2:relative", "noise:0.8:relative"], n=4)
    spread = [point.diversity.mean for point in points]
    assert spread[0] == 0.0
    assert spread == sorted(spread)
    assert points[0].coverage.mean == points[0].single.mean == points[0].majority.mean
    assert points[0].distinct.mean is not None
    assert points[0].distinct.mean <= 1.0
    with pytest.raises(ValueError, match="sampler"):
        diversity_sweep(model, *problems, ["noise:0.2", "nonsense:1"], n=4)


def test_dearer_trajectories_are_fewer() -> None:
    assert [equal_compute(160, each) for each in (5.0, 10.0, 16.0)] == [32, 16, 10]
    assert equal_compute(1, 10.0) == 1


def test_steps_against_width_spends_nearly_the_same_at_every_length(
    model: latent_ext.LatentModel, problems: tuple[list[str], list[str]]
) -> None:
    rows = steps_against_width(model, *problems, [4, 6], budget=80, sampler="none")
    assert [row.thoughts for row in rows] == [4, 6]
    for row in rows:
        # Without sampling all N answers are the noise-free one: only rounding N to a whole number is left.
        assert abs(row.passes - 80) <= row.passes / row.n / 2
        assert row.coverage.mean == row.single.mean == row.greedy.mean
    own = latent_ext.solve(model, problems[0], n=1, sampler="none", decode="all")
    accuracy = sum(r.answer == gold for r, gold in zip(own, problems[1], strict=True)) / len(own)
    assert rows[1].greedy.mean == accuracy


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: distances([pool(torch.eye(2)[:, None])], "manhattan"), "kind: got 'manhattan'"),
        (lambda: distances([pool(torch.eye(2)[:, None])], group="left"), "group: got 'left'"),
        (lambda: fidelity([pool(torch.eye(2)[:, None])]), "noise_free"),
        (lambda: rank_across([pool(torch.eye(2)[:, None])]), "noise_free"),
        (lambda: map_thoughts(pool(torch.eye(2)[:, None]), "som"), "method: got 'som'"),
        (lambda: mean_over_questions([math.inf]), "not finite"),
        (lambda: ThoughtPool(torch.eye(2), torch.ones(2), torch.ones(2)), "shapes"),
        (lambda: effective_rank(torch.zeros(0, 3)), "not empty"),
    ],
)
def test_bad_input_is_named(call: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()  # type: ignore[operator]


def test_analyse_writes_plain_json_of_every_part(model: latent_ext.LatentModel, tmp_path: Path) -> None:
    listed = shipped_problems("test_5", 6)
    plan = AnalysisPlan(
        n=3, sampler=NOISE, sweep=["noise:0.2:relative"], lengths=[5, 6], maps=1, map_methods=["pca"]
    )
    phases = []
    found = analyse(model, listed, plan, report=lambda phase, done, total: phases.append(phase))
    assert {*PARTS, "about", "movement"} == set(found)
    assert json.loads(write_analysis(tmp_path, found).read_text())["about"]["problems"] == 6
    assert list(dict.fromkeys(phases)) == ["noise-free", "sampling", "diversity sweep", "T against N"]
    # The second thought of this model reads out as the first step's value, whoever's chain is not its own.
    named = found["read_out"]
    assert named["names"][1][0]["mean"] > named["names_other"][1][0]["mean"]
    with pytest.raises(ValueError, match="parts: got 'maps '"):
        AnalysisPlan(parts=["maps "])
    with pytest.raises(ValueError, match="problems: got none"):
        analyse(model, [])


RECIPE = {
    "datasets": [
        {"name": "five", "shipped": "test_5", "limit": 8},
        {"name": "six", "shipped": "test_6", "limit": 8},
    ],
    "arms": [
        {"name": "greedy", "sampler": "none", "n": 1},
        {"name": "noise", "sampler": NOISE, "n": 4},
        {"name": "masks", "sampler": "dropout:0.3", "scope": "prompt+latent", "n": 4},
    ],
}


def test_a_recipe_is_analysed_with_the_sampler_of_its_arm() -> None:
    recipe = as_recipe(RECIPE)
    plan = AnalysisPlan(parts=["distances"], n=3)
    first = analyse_recipe(recipe, plan, limit=4)["about"]
    assert (first["dataset"], first["arm"], first["plan"]["sampler"]) == ("five", "noise", NOISE)
    other = analyse_recipe(recipe, plan, dataset="six", arm="masks", limit=4)["about"]
    assert (other["dataset"], other["problems"]) == ("six", 4)
    assert (other["settings"]["p"], other["settings"]["scope"]) == (pytest.approx(0.3), "prompt+latent")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"dataset": "seven"}, "dataset: got 'seven'; allowed are five, six"),
        ({"arm": "greedy"}, "arm: got 'greedy'; those that sample thoughts are noise, masks"),
        ({"limit": 0}, "limit: got 0"),
    ],
)
def test_what_a_recipe_does_not_have_is_named(given: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        analyse_recipe(as_recipe(RECIPE), **given)


def test_the_command_takes_the_directory_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    arguments = [
        "analyse",
        str(tmp_path),
        "--only",
        "distances",
        "--only",
        "read_out",
        "--limit",
        "4",
        "--n",
        "3",
    ]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "4 problems of five, arm noise, N = 3" in shown.output
    assert {"distances", "read_out"} < set(json.loads((tmp_path / "analysis.json").read_text()))
    bare = CliRunner().invoke(app, ["analyse", str(tmp_path / "recipe.yaml")])
    assert isinstance(bare.exception, ValueError)
    assert "out: not given" in str(bare.exception)
