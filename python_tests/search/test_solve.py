"""`solve` as a whole: what is decoded, what is reported and left out, what is refused."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from random_models import QUESTIONS, random_model, random_reward

import latent_ext
from latent_ext.engine.base import LatentRun
from latent_ext.engine.modules import ModulesEngine
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.samplers import GaussianNoise

KINDS = {"native": NativeEngine, "modules": ModulesEngine, "reference": ReferenceEngine}


def run(model, reward, **how):  # type: ignore[no-untyped-def]
    how = {"n": 6, "max_answer_tokens": 4, "sampler": "noise:0.5:relative"} | how
    return latent_ext.solve(model, list(QUESTIONS), reward=reward, **how)


@pytest.mark.parametrize("max_rows", [None, 4, 1])
@pytest.mark.parametrize("engine", KINDS)
def test_needed_decoding_names_the_same_winner_and_answer_as_decoding_all(
    generator: torch.Generator, engine: str, max_rows: int | None
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    every = run(model, reward, decode="all", engine=engine, max_rows=max_rows)
    needed = run(model, reward, decode="needed", engine=engine, max_rows=max_rows)
    for all_of, one_of in zip(every, needed, strict=True):
        assert one_of.chosen == all_of.chosen
        assert one_of.best.text == all_of.best.text
        assert one_of.answer == all_of.answer
        assert [t.index for t in one_of.trajectories if t.text is not None] == [one_of.chosen]
        assert all(t.text is not None for t in all_of.trajectories)
        assert one_of.best.score == pytest.approx(sum(one_of.best.step_scores))


def spoil_thought(monkeypatch: pytest.MonkeyPatch, engine: str, question: int, n: int) -> None:
    original = KINDS[engine].sample

    def sample(self, request, *caches) -> LatentRun:  # type: ignore[no-untyped-def]
        made = original(self, request, *caches)
        made.thoughts[question * request.trajectories + n, 2, 5] = math.nan
        return made

    monkeypatch.setattr(KINDS[engine], "sample", sample)


@pytest.mark.parametrize("decode", ["needed", "all"])
@pytest.mark.parametrize("engine", KINDS)
def test_a_thought_that_is_not_finite_is_reported_and_never_selected(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, engine: str, decode: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    questions = [QUESTIONS[1], QUESTIONS[0]]
    how = {"n": 4, "reward": reward, "engine": engine, "decode": decode, "max_answer_tokens": 3}
    clean = latent_ext.solve(model, questions, **how)
    # Both questions have the same room for answers and so share a batch, the shorter prompt first.
    bad = clean[0].chosen
    spoil_thought(monkeypatch, engine, 0, bad)
    with pytest.warns(
        RuntimeWarning, match=rf"question 0, trajectory {bad}: thought 3 is not finite"
    ) as seen:
        spoiled = latent_ext.solve(model, questions, **how)
    assert [warning.category for warning in seen].count(RuntimeWarning) == 1
    assert spoiled[0].chosen not in (None, bad)
    broken = spoiled[0].trajectories[bad]
    assert (broken.score, broken.answer, broken.text) == (None, None, None)
    assert (spoiled[1].chosen, spoiled[1].scores, spoiled[1].answer) == (
        clean[1].chosen, clean[1].scores, clean[1].answer,
    )  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("engine", KINDS)
def test_a_score_that_is_not_finite_is_reported_and_never_selected(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, engine: str, bad: float
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    original = KINDS[engine].sample

    def sample(self, *arguments) -> LatentRun:  # type: ignore[no-untyped-def]
        made = original(self, *arguments)
        made.scores[1, 0] = bad
        return made

    monkeypatch.setattr(KINDS[engine], "sample", sample)
    with pytest.warns(RuntimeWarning, match="question 0, trajectory 1: the score is not finite"):
        result = latent_ext.solve(model, QUESTIONS[2], n=3, reward=reward, engine=engine)[0]
    assert result.chosen in (0, 2)
    assert result.scores[1] is None


@pytest.mark.parametrize("select", ["best_of_n", "majority", "weighted_vote"])
@pytest.mark.parametrize("engine", KINDS)
def test_weights_that_are_nan_choose_nothing_and_raise_nothing(
    generator: torch.Generator, engine: str, select: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    with torch.no_grad():
        model.hf.transformer.h[1].mlp.c_proj.weight[0] = math.nan
    with pytest.warns(RuntimeWarning, match="thought 1 is not finite"):
        results = latent_ext.solve(model, QUESTIONS[1], n=2, reward=reward, engine=engine, select=select)
    assert (results[0].chosen, results[0].answer, results[0].votes) == (None, None, {})


def test_a_clean_run_warns_of_nothing_and_counts_its_trajectories(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    seen: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run(model, reward, max_rows=5, progress=lambda done, total: seen.append((done, total)))
    assert [result.question for result in results] == list(QUESTIONS)
    assert seen[-1] == (18, 18)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_result_records_what_its_numbers_depend_on(generator: torch.Generator) -> None:
    model = random_model(generator)
    sampler = GaussianNoise(0.123456789, relative=True)
    settings = latent_ext.solve(model, "7", n=1, sampler=sampler, scope="prompt+latent", seed=9)[0].settings
    wanted = {
        "sampler": "noise:0.123456789:relative",
        "scope": "prompt+latent",
        "seed": 9,
        "n": 1,
        "sigma": 0.123456789,
    }
    assert {name: settings[name] for name in wanted} == wanted


def test_no_questions_give_no_results(generator: torch.Generator) -> None:
    assert latent_ext.solve(random_model(generator), []) == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n", 0), ("n", 2.0), ("select", "oracle"), ("select", "best_of_n"), ("decode", "some"), ("temperature", -1.0),
        ("temperature", math.nan), ("max_answer_tokens", 0), ("seed", 1 << 64), ("seed", 1.5), ("keys", [1, 2]),
        ("keys", [1.5]), ("keys", [1 << 70]), ("engine", "fast"), ("scope", "answer"), ("sampler", "drop:0.1"),
        ("memory_bytes", 0), ("max_rows", 0),
    ],
)  # fmt: skip
def test_a_bad_argument_is_named(generator: torch.Generator, argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}(\[0\])?: "):
        latent_ext.solve(random_model(generator), "7", **{"n": 1, argument: value})


@pytest.mark.parametrize("text", ["", " \n", "apples " * 70])
def test_a_bad_question_is_named_by_its_index(generator: torch.Generator, text: str) -> None:
    with pytest.raises(ValueError, match=r"^questions\[1\]: "):
        latent_ext.solve(random_model(generator), ["7", text], n=1)
