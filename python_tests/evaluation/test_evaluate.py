"""`evaluate` in this process: what a ledger holds, and what resuming, batching and sharding change (nothing)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import latent_ext
from latent_ext.evaluation.ledger import LedgerError, read_ledger
from latent_ext.evaluation.merge import merge_runs
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.evaluation.unit import Shard
from latent_ext.evaluation.worker import Worker
from python_tests.evaluation.runs import plain_recipe, results, run, small_recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    evaluated = run(out)
    assert evaluated.finished == evaluated.wanted == 7 * 4 * 2
    assert evaluated.failures == []
    return out


def attempts(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "attempts.jsonl").read_text().splitlines()]


def cut(out: Path, target: Path, keep: int, torn: bytes = b"") -> None:
    """What a killed process leaves: the first lines of a ledger, and a torn one."""
    target.mkdir()
    for name in ("settings.json", "recipe.yaml"):
        (target / name).write_bytes((out / name).read_bytes())
    lines = (out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (target / "ledger.jsonl").write_bytes(b"".join(lines[:keep]) + torn)


def test_a_line_says_what_solve_says(whole: Path) -> None:
    model, reward = latent_ext.load(), latent_ext.load_reward()
    lines = [line for line in read_ledger(whole) if (line["arm"], line["seed"]) == ("noise", 3)]
    problems = shipped_problems("test_5", 7)
    results_of_solve = latent_ext.solve(
        model, [problem.question for problem in problems], n=5, sampler="noise:0.6:relative", reward=reward,
        decode="all", seed=3, engine="native", max_answer_tokens=8,
    )  # fmt: skip
    assert [line["index"] for line in lines] == list(range(7))
    for line, problem, result in zip(lines, problems, results_of_solve, strict=True):
        assert (line["id"], line["gold"]) == (problem.id, problem.answer)
        assert line["answers"] == result.answers
        assert line["scores"] == result.scores
        assert line["correct"] == [answer == problem.answer for answer in result.answers]
        assert line["chosen"] == result.chosen
        best = max(range(4), key=lambda n: result.scores[n])
        assert line["pred_naive@4"] == result.answers[best]
        assert line["thoughts"] == [6] * 5
        assert line["cost"]["thoughts"] == 30


def test_the_cost_of_a_beam_counts_the_candidates_that_were_left(whole: Path) -> None:
    beam = next(line for line in read_ledger(whole) if line["arm"] == "beam")
    assert len(beam["answers"]) == 2
    assert beam["cost"]["thoughts"] == 2 * 2 * 6


def test_a_finished_run_is_not_done_again(whole: Path) -> None:
    before = results(whole)
    assert run(whole).finished == 0
    assert results(whole) == before


@pytest.mark.parametrize(("keep", "torn"), [(0, b""), (1, b'{"dataset": "fi'), (29, b"\x00\xff"), (55, b"")])
def test_a_resumed_run_is_the_uninterrupted_one(whole: Path, tmp_path: Path, keep: int, torn: bytes) -> None:
    out = tmp_path / "cut"
    cut(whole, out, keep, torn)
    assert run(out).finished == 56 - keep
    assert results(out) == results(whole)


def test_batches_and_threads_change_nothing(whole: Path, tmp_path: Path, restored_threads: None) -> None:
    assert run(tmp_path / "a", batch=1, threads=2).finished == 56
    assert results(tmp_path / "a") == results(whole)


def test_merged_shards_are_the_single_run_in_whatever_order(whole: Path, tmp_path: Path) -> None:
    shards = [tmp_path / f"shard{number}" for number in (1, 2, 3)]
    for number, out in enumerate(shards, start=1):
        run(out, shard=Shard(number, 3))
    merged = merge_runs([shards[2], shards[0], shards[1]], tmp_path / "merged")
    assert merged.questions == merged.wanted == 56
    assert results(tmp_path / "merged") == results(whole)
    assert sum(entry["event"] == "batch" for entry in attempts(tmp_path / "merged")) > 3


def test_overlapping_runs_merge_and_differing_results_do_not(whole: Path, tmp_path: Path) -> None:
    part, changed = tmp_path / "part", tmp_path / "changed"
    cut(whole, part, 20)
    assert merge_runs([whole, part], tmp_path / "merged").questions == 56
    cut(whole, changed, 20)
    text = (changed / "ledger.jsonl").read_text()
    (changed / "ledger.jsonl").write_text(text.replace('"finished":[true]', '"finished":[false]', 1))
    with pytest.raises(
        LedgerError, match=r"dataset five, arm greedy, seed 0, question 0 that differ in finished"
    ):
        merge_runs([whole, changed], tmp_path / "refused")
    with pytest.raises(LedgerError, match="holds a ledger already"):
        merge_runs([whole], tmp_path / "merged")


def test_runs_of_other_settings_do_not_merge(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "other", small_recipe(max_answer_tokens=7))
    with pytest.raises(LedgerError, match=r"differ in max_answer_tokens \(8, now 7\)"):
        merge_runs([whole, tmp_path / "other"], tmp_path / "merged")


def test_changed_settings_are_refused_by_name_and_forced_ones_keep_what_fits(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cut"
    cut(whole, out, 56)
    before = (out / "ledger.jsonl").read_bytes()
    fewer = small_recipe(arms=plain_recipe()["arms"][:2], seeds=[0, 4])
    with pytest.raises(
        LedgerError, match=r"other settings: arms \(token, beam\); seeds \(\[0, 3\], now \[0, 4\]\)"
    ):
        run(out, fewer)
    assert (out / "ledger.jsonl").read_bytes() == before
    # Of seed 0 there is everything; of seed 4 nothing.
    assert run(out, fewer, force=True).finished == 2 * 7
    assert len((out / "set-aside.jsonl").read_text().splitlines()) == 56 - 14
    assert any(entry["event"] == "forced" for entry in attempts(out))


def test_two_writers_of_one_run_are_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    refusals = []

    def second(self: Worker, unit: object) -> object:
        if not refusals:
            with pytest.raises(LedgerError, match="another process writes to") as refused:
                run(out)
            refusals.append(refused)
        return original(self, unit)

    original = Worker.__call__
    monkeypatch.setattr(Worker, "__call__", second)
    run(out)
    assert len(refusals) == 1
    assert results(out) == results(whole)


def test_a_question_that_cannot_be_answered_fails_alone_and_is_tried_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, failing = tmp_path / "run", shipped_problems("test_5", 7)[4].question
    original = Worker.solve

    def solve(self: Worker, arm: object, questions: list[str], seed: int) -> object:
        if failing in questions:
            raise MemoryError("no room")
        return original(self, arm, questions, seed)

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "solve", solve)
        evaluated = run(out)
    assert evaluated.finished == 6 * 8
    assert {failure["index"] for failure in evaluated.failures} == {4}
    assert len(evaluated.failures) == 8
    assert evaluated.failures[0]["error"] == "MemoryError: no room"
    assert "1 of 7 have no result yet" in evaluated.summary["tables"][0]["note"]
    assert run(out).finished == 8
    assert results(out) == results(whole)


def test_an_arm_that_solve_refuses_is_named_before_anything_is_written(tmp_path: Path) -> None:
    recipe = small_recipe(at=[1], arms=[{"name": "odd", "sampler": "dropout:1.5", "n": 2}])
    with pytest.raises(ValueError, match=r"arm odd: p: got 1\.5"):
        run(tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_thoughts_that_are_not_finite_stand_in_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Worker.solve

    def solve(self: Worker, *arguments: object) -> object:
        found = original(self, *arguments)
        for result in found:
            trajectory = result.trajectories[0]
            trajectory.set_scores([float("nan")] * 6)
        return found

    monkeypatch.setattr(Worker, "solve", solve)
    arms = [{"name": "noise", "sampler": "noise:0.6:relative", "n": 2}]
    run(tmp_path / "run", small_recipe(arms=arms, seeds=[0], at=[1, 2]))
    for line in read_ledger(tmp_path / "run"):
        assert line["scores"][0] is None
        assert line["step_scores"][0] == [None] * 6
        assert line["errors"] == {"0": "the score is not finite"}
        assert line["chosen"] != 0


def test_torch_is_part_of_the_settings_of_other_engines_only(whole: Path, tmp_path: Path) -> None:
    assert json.loads((whole / "settings.json").read_text())["torch"] is None
    arms = [{"name": "noise", "sampler": "noise:0.6:relative", "n": 2}]
    run(tmp_path / "run", small_recipe(arms=arms, seeds=[0], at=[1, 2], engine="modules"))
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["torch"] == torch.__version__
