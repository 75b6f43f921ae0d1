"""lm-evaluation-harness runs best-of-N inside its own generate_until tasks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from latent_ext import load, load_reward, solve
from latent_ext.assets import SHIPPED_PROBLEMS
from latent_ext.evaluation.harness import LatentExtLM, cut_at
from latent_ext.evaluation.problems import shipped_problems

_TASK = Path(__file__).parents[2] / "examples/harness/latent_ext_arithmetic.yaml"
_SAMPLER = "noise:0.6:relative"


def _request(question: str, **keywords: Any) -> Any:
    return SimpleNamespace(args=(question, keywords), doc={"question": question, "answer": "1"})


def test_a_local_task_scores_what_solve_answers(tmp_path: Path) -> None:
    count = 12
    problems = shipped_problems("test_5", count)
    text = _TASK.read_text(encoding="utf-8").replace(
        "latent_ext/assets/problems/test_5.jsonl", json.dumps(str(SHIPPED_PROBLEMS / "test_5.jsonl"))
    )
    text = text.replace(
        "dataset_kwargs:\n", f"dataset_kwargs:\n  cache_dir: {json.dumps(str(tmp_path / 'cache'))}\n"
    )
    (tmp_path / "latent_ext_arithmetic.yaml").write_text(text, encoding="utf-8")
    found = simple_evaluate(
        model="latent_ext",
        model_args={"pretrained": "shipped", "reward": "shipped", "n": 4, "sampler": _SAMPLER},
        tasks=["latent_ext_arithmetic"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        limit=count,
        bootstrap_iters=0,
    )
    results = solve(load(), [p.question for p in problems], n=4, sampler=_SAMPLER, reward=load_reward())
    right = sum(result.answer == problem.answer for result, problem in zip(results, problems, strict=True))
    measured = found["results"]["latent_ext_arithmetic"]["exact_match,after-marker"]
    assert round(measured * count) == right
    assert 0 < right < count


def test_a_repeated_request_is_drawn_anew_and_as_a_run_with_the_next_seed() -> None:
    model = LatentExtLM(n=1, sampler="none", temperature=1.5, seed=7)
    questions = [problem.question for problem in shipped_problems("test_5", 4)]
    requests = [_request(question) for question in questions]
    texts = model.generate_until([one for one in requests for _ in range(2)], disable_tqdm=True)
    for repeat in range(2):
        drawn = solve(load(), questions, n=1, sampler="none", temperature=1.5, seed=7 + repeat)
        assert texts[repeat::2] == [result.trajectories[0].text for result in drawn]
    assert texts[::2] != texts[1::2]


def test_the_task_shortens_answers_and_the_model_reads_the_bare_question_where_told() -> None:
    question = shipped_problems("test_5", 1)[0].question
    plain, wrapped = _request(question), _request(question)
    wrapped.args = (f"Question: {question}\nAnswer:", {"until": ["Question:"], "max_gen_toks": 64})
    model = LatentExtLM(n=2, sampler="none", question_field="question")
    whole, same = model.generate_until([plain, wrapped], disable_tqdm=True)
    assert whole == same
    shorter = _request(question, max_gen_toks=1)
    assert model.generate_until([shorter], disable_tqdm=True)[0] != whole


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling"])
def test_loglikelihoods_are_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(ValueError, match=f"latent_ext: {kind} requests are refused: .*generate_until"):
        getattr(LatentExtLM(), kind)([])


def test_an_unknown_field_is_named_with_those_there_are() -> None:
    model = LatentExtLM(n=1, sampler="none", question_field="text")
    with pytest.raises(
        ValueError, match="question_field: got 'text'; this task's documents have answer, question"
    ):
        model.generate_until([_request("7")], disable_tqdm=True)


def test_a_task_that_asks_for_sampled_tokens_is_told_who_decides() -> None:
    model = LatentExtLM(n=1, sampler="none")
    with pytest.warns(UserWarning, match="^do_sample: "):
        model.generate_until([_request("7", do_sample=True)], disable_tqdm=True)


@pytest.mark.parametrize(
    ("until", "expected"), [(None, "ab cd"), ("c", "ab "), (["zz", "d", "b"], "a"), ([""], "ab cd")]
)
def test_text_ends_where_the_first_stop_begins(until: Any, expected: str) -> None:
    assert cut_at("ab cd", until) == expected
