"""The benchmark compares like with like: baselines find what `solve` finds, and a ratio is not printed otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import best_of_n
import case as cases
import grid
import plot_best_of_n
import pytest
import torch
from agreement import compare
from baselines import BASELINES, CounterRandomness, Task, TorchRandomness, careful
from case import Case, counter_randomness, measure, solve_ours
from quality import paired_bootstrap, quality
from results import Results
from shapes import Shape, build_shape, random_shape
from transformers import GPT2Config, LlamaConfig
from typer.testing import CliRunner

from latent_ext.samplers import Sampler

TOKENS = 5
SAMPLERS = {"noise": "noise:0.6", "dropout": "dropout:0.2", "both": "dropout:0.1+noise:0.4:relative"}


def tiny_gpt2() -> Shape:
    config = GPT2Config(vocab_size=120, n_positions=64, n_embd=48, n_layer=2, n_head=4, eos_token_id=None)
    return random_shape("tiny", config, 3, seed=5, prompt_tokens=9, latent_length=3)


def tiny_llama() -> Shape:
    config = LlamaConfig(
        vocab_size=120, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, eos_token_id=None,
    )  # fmt: skip
    return random_shape("tiny", config, 3, seed=5, prompt_tokens=9, latent_length=3)


def shipped() -> Shape:
    # Real problems have prompts of different lengths: the baselines' batches are padded.
    return build_shape("shipped", 3, seed=0)


BUILDERS: dict[str, Callable[[], Shape]] = {"gpt2": tiny_gpt2, "llama": tiny_llama, "shipped": shipped}


@pytest.fixture(scope="module")
def built() -> dict[str, Shape]:
    return {name: build() for name, build in BUILDERS.items()}


def make_case(**changes: Any) -> Case:
    settings = {"shape": "tiny", "n": 4, "questions": 3, "repeats": 1, "max_answer_tokens": TOKENS}
    return Case(**(settings | changes))


def run(case: Case, shape: Shape, baseline: str, **changes: Any):  # type: ignore[no-untyped-def]
    task = Task(
        shape.model, shape.reward, shape.questions, case.n, case.bound_sampler, case.select,
        case.max_answer_tokens,
    )  # fmt: skip
    return BASELINES[baseline](task, counter_randomness(replace(case, **changes), shape))


@pytest.mark.parametrize("select", ["best_of_n", "weighted_vote"])
@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", BUILDERS)
def test_both_baselines_find_what_solve_finds(
    built: dict[str, Shape], name: str, sampler: str, scope: str, select: str
) -> None:
    shape = built[name]
    case = make_case(sampler=SAMPLERS[sampler], scope=scope, select=select)
    ours = solve_ours(case, shape, return_thoughts=True)
    for baseline in BASELINES:
        found = compare(shape.model, ours, run(case, shape, baseline))
        assert found.same, f"{baseline}: {found.differences}"
        assert found.questions == 3
        assert found.answers == (3 if select == "best_of_n" else 12)


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_seed_decides_what_a_baseline_finds(built: dict[str, Shape], baseline: str) -> None:
    case = make_case(select="weighted_vote", n=8)
    ours = solve_ours(case, built["gpt2"], return_thoughts=True)
    found = compare(built["gpt2"].model, ours, run(case, built["gpt2"], baseline, seed=1))
    assert not found.same
    assert found.differences


def test_careful_finds_the_same_in_parts(built: dict[str, Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    # The package's `careful` is the function; the module of that name is found here alone.
    module = sys.modules["baselines.careful"]
    case = make_case(n=5, sampler="dropout:0.2")
    ours = solve_ours(case, built["shipped"], return_thoughts=True)
    for rows in (3, 10):  # a question in two parts, and two questions at a time
        monkeypatch.setattr(module, "MAX_ROWS", rows)
        assert compare(built["shipped"].model, ours, run(case, built["shipped"], "careful")).same


@pytest.mark.parametrize("sampler", ["noise", "dropout"])
@pytest.mark.parametrize("name", BUILDERS)
def test_torch_randomness_draws_at_every_row_and_leaves_the_modules_as_they_were(
    built: dict[str, Shape], name: str, sampler: str
) -> None:
    shape = built[name]
    task = Task(
        shape.model, shape.reward, shape.questions, 4, Sampler.parse(SAMPLERS[sampler]), "best_of_n", 2
    )

    def run() -> list[tuple[bool, float | None, int]]:
        for baseline in BASELINES.values():
            scores = baseline(task, TorchRandomness(task.sampler)).scores
            assert all(len(set(row)) == 4 for row in scores.tolist())
        return [(m.training, getattr(m, "p", None), len(m._forward_hooks)) for m in shape.model.hf.modules()]

    # transformers hangs hooks of its own on a model at its first pass: a second run must add none.
    assert run() == run()


def other_seed(task: Task, randomness: Any) -> Any:
    """A deliberately wrong baseline."""
    return careful(task, CounterRandomness(task.sampler, 99, randomness.keys))


def test_a_baseline_that_finds_something_else_gets_no_ratio(built: dict[str, Shape]) -> None:
    case = make_case(n=8, select="weighted_vote")
    record = measure(case, built["gpt2"], baselines=BASELINES | {"careful": other_seed})
    assert record["same_winner"] is False
    assert record["agreement"]["published"]["same"]
    assert record["ratio"] == {"careful": None, "published": None}
    assert record["cpu_s"] == {"ours": None, "careful": None, "published": None}


def test_a_disagreement_ends_the_command_with_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--shape", "shipped", "--n", "8", "--select", "weighted_vote", "--methods", "ours,careful"]
    assert _command([*arguments, "--repeats", "1", "--json"]).exit_code == 0
    monkeypatch.setitem(BASELINES, "careful", other_seed)
    outcome = _command([*arguments, "--repeats", "1", "--json"])
    assert outcome.exit_code == 1
    assert isinstance(outcome.exception, SystemExit)
    assert json.loads(outcome.stdout)["same_winner"] is False


def test_a_record_names_everything_that_its_figures_depend_on(built: dict[str, Shape]) -> None:
    case = make_case()
    record = measure(case, built["gpt2"])
    assert record["same_winner"] is True
    for method in ("careful", "published"):
        assert record["ratio"][method] == record["cpu_s"][method] / record["cpu_s"]["ours"]
    assert record["settings"] == json.loads(json.dumps(case.settings()))
    assert {"cpu", "threads", "capability", "torch", "transformers", "latent_ext"} <= set(record["machine"])
    assert sum(record["gflop_by_phase"].values()) == record["gflop"]
    assert record["phases_cpu_s"]["sample"] > 0


def test_published_is_left_out_of_large_cells_and_never_extrapolated(built: dict[str, Shape]) -> None:
    case = make_case(n=cases.PUBLISHED_ROWS // 3 + 1, max_answer_tokens=1)
    record = measure(case, built["gpt2"])
    assert record["cpu_s"]["published"] is None
    assert record["ratio"]["published"] is None
    assert record["ratio"]["careful"] is not None


def test_near_ties_are_no_difference_and_wide_gaps_are(built: dict[str, Shape]) -> None:
    shape, case = built["gpt2"], make_case()
    ours = solve_ours(case, shape, return_thoughts=True)
    theirs = run(case, shape, "careful")
    other = [(chosen + 1) % case.n for chosen in theirs.chosen]
    silent = [[None] * case.n for _ in other]  # answers of other trajectories are not decoded by both
    far = replace(theirs, chosen=other, tokens=silent)
    assert not compare(shape.model, ours, far).same
    level = replace(far, scores=torch.zeros_like(theirs.scores))
    found = compare(shape.model, ours, level)
    assert found.same
    assert found.identical_winners == 0


def test_a_random_question_has_exactly_the_wanted_length(built: dict[str, Shape]) -> None:
    shape = built["gpt2"]
    for question in shape.questions:
        ids = shape.model.encode(question)
        assert len(ids) == 9
        assert ids[-1] == shape.model.ids.start
        assert [f"w{word}" for word in ids[:-1].tolist()] == question.split()


def test_an_interrupted_grid_loses_no_record_and_resumes_behind_it(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "records.json"
    settings = make_case().settings()
    Results(file).add({"settings": settings, "cpu_s": {}})
    resumed = Results(file, resume=True)
    assert resumed.holds(json.loads(json.dumps(settings)))
    assert not resumed.holds(make_case(n=7).settings())
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not a file of records"):
        Results(file, resume=True)


def test_quick_and_what_it_leaves_out_are_the_full_grid() -> None:
    settings = make_case()
    full, nothing = grid.cells("full", settings)
    quick, left_out = grid.cells("quick", settings)
    assert nothing == []
    assert len(full) == 3 * 2 * len(grid.SIZES) * len(grid.QUESTIONS)
    assert set(quick) | set(left_out) == set(full)
    assert not set(quick) & set(left_out)
    with pytest.raises(ValueError, match="quick, full"):
        grid.cells("all", settings)


def test_grid_records_plot(built: dict[str, Shape], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shape = built["gpt2"]
    one = replace(shape, questions=shape.questions[:1])
    file, picture = Results(tmp_path / "records.json"), tmp_path / "plot.png"
    for n in (1, 4):
        file.add(measure(make_case(n=n, questions=1, max_answer_tokens=1), one))
    plot_best_of_n.main(file.path, picture, "tiny")
    assert 0 < picture.stat().st_size < 80_000


def test_paired_bootstrap_holds_the_difference_and_knows_when_there_is_none() -> None:
    before = [1.0, 0.0] * 50
    after = [1.0, 0.0] * 45 + [0.0, 0.0] * 5
    difference, (low, high) = paired_bootstrap(before, after, seed=0)
    assert difference == pytest.approx(-0.05)
    assert low < difference < high
    assert paired_bootstrap(before, before, seed=0) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n: got 0"),
        ({"select": "majority"}, "select: got 'majority'"),
        ({"methods": ("careful",)}, "methods: got careful"),
        ({"sampler": "none"}, "sampler: got 'none'"),
        ({"weights": "int4"}, "weights: got 'int4'"),
        ({"weights": "bf16", "engine": "modules"}, "needs engine auto or native, got 'modules'"),
    ],
)
def test_a_setting_that_cannot_be_run_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_case(**changes)


def test_quality_compares_reduced_weights_alone() -> None:
    with pytest.raises(ValueError, match="reduced weights"):
        quality(make_case(shape="shipped"))


def _command(arguments: list[str]):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(best_of_n.app, arguments)
