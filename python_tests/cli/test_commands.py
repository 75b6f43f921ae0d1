"""What the commands print and how they end."""

from __future__ import annotations

import copy
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

import latent_ext
from latent_ext.cli.progress import reporting
from latent_ext.cli.strict_json import strict_json
from latent_ext.rewards import LatentRM
from latent_ext_cli.commands import COMMANDS, load_command

QUESTION = "Omar has 23 stones. He loses 6. How many stones does Omar have now?"
OTHER = "Anna starts with 12 tickets. She loses 1. How many tickets does Anna have now?"


def strict(text: str) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("command", ["solve", "demo", "convert", "info"])
def test_help_shows_each_example_on_a_line_of_its_own(call: Callable, command: str) -> None:
    called = call(command, "--help")
    assert called.code == 0
    lines = [line.strip() for line in called.out.splitlines()]
    first = lines.index("Examples:")
    examples = [line for line in lines[first + 1 : first + 9] if line and not line.startswith("╭")]
    shown = examples[: next((i for i, line in enumerate(examples) if line.startswith("│")), None)]
    assert len(shown) >= 2
    assert all(line.startswith("latent-ext ") for line in shown)


def test_help_and_version_wait_for_neither_torch_nor_transformers() -> None:
    script = (
        "import sys; from latent_ext_cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n"
        "    sys.exit(ended.code or {'torch', 'transformers', 'latent_ext'} & set(sys.modules) or 0)"
    )
    for option, said in (
        ("--help", "Answers questions"),
        ("--version", f"latent-ext {latent_ext.__version__}"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, option], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_of_each_what_it_says_of_itself(name: str) -> None:
    word = name.replace("-", "_")
    assert getattr(import_module(f"latent_ext.cli.{word}"), word).__doc__ == COMMANDS[name]


def test_what_is_renamed_for_an_error_is_renamed_to_an_option_or_argument(call: Callable) -> None:
    for name in COMMANDS:
        command = load_command(name)
        typed = {option for parameter in command.params for option in (*parameter.opts, parameter.metavar)}
        renamed = getattr(import_module(f"latent_ext.cli.{name.replace('-', '_')}"), "RENAMED", {})
        assert set(renamed.values()) <= typed


def test_info_is_one_strict_object_that_names_the_chosen_engine(call: Callable) -> None:
    called = call("info", "--json")
    assert called.code == 0
    found = strict(called.out)
    assert found["engine"] in [engine["name"] for engine in found["engines"] if engine["usable"]]
    assert found["torch"] == torch.__version__


def test_info_is_a_table_for_people(call: Callable) -> None:
    called = call("info")
    assert called.code == 0
    assert "cpu level" in called.out
    assert called.err == ""


def test_json_is_one_object_per_question_and_nothing_else(call: Callable, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"id": "a", "question": QUESTION, "answer": 17}) + f'\n"{OTHER}"\n')
    called = call("solve", "--file", str(path), "--reward", "none", "--n", "2", "--json")
    assert called.code == 0
    assert called.err == ""
    first, second = (strict(line) for line in called.out.splitlines())
    assert (first["id"], first["gold"], first["question"]) == ("a", "17", QUESTION)
    assert (second["id"], second["gold"], second["question"]) == ("2", None, OTHER)
    assert len(first["trajectories"]) == first["settings"]["n"] == 2


def test_a_dash_reads_json_lines_from_standard_input(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f'{{"question": "{QUESTION}"}}\n'))
    called = call("solve", "-", "--reward", "none", "--n", "1", "--json")
    assert called.code == 0
    assert strict(called.out)["question"] == QUESTION


def test_a_question_is_answered_for_people(call: Callable) -> None:
    called = call("solve", QUESTION, "--reward", "none", "--n", "2")
    assert called.code == 0
    assert QUESTION in " ".join(called.out.split())
    assert "majority of 2 trajectories" in called.out


def test_an_adaptive_run_says_what_its_budget_meant(call: Callable) -> None:
    called = call(
        "solve", QUESTION, "--reward", "none", "--select", "adaptive", "--n", "8", "--confidence", "0.9"
    )
    assert called.code == 0
    last = called.out.strip().splitlines()[-1]
    thoughts, tokens = 8 * 6, 8 * 64
    assert last.startswith(f"per question at most {thoughts} thoughts, {tokens} answer tokens, ")
    assert re.search(r"; took (24|48) thoughts, \d+ answer tokens, [\d.e-]+ GFLOP$", last)


def test_an_adaptive_run_extends_where_it_is_asked_to(call: Callable, latent_rm_directory: Path) -> None:
    how = ("--select", "adaptive", "--n", "8", "--confidence", "0.99", "--extend", "--json")
    result = strict(call("solve", QUESTION, "--reward", str(latent_rm_directory), *how).out)
    assert (result["settings"]["extend"], len(result["trajectories"])) == (True, 8)


def test_a_search_is_asked_for_by_the_words_of_solve(call: Callable, latent_rm_directory: Path) -> None:
    how = ("--select", "beam", "--beams", "2", "--candidates", "2", "--subtrees", "2", "--lookahead", "1")
    called = call("solve", QUESTION, "--reward", str(latent_rm_directory), *how, "--json")
    settings = strict(called.out)["settings"]
    assert [settings[name] for name in ("n", "candidates", "subtrees", "lookahead")] == [2, 2, 2, 1]


def test_a_search_says_how_wide_it_was(call: Callable, latent_rm_directory: Path) -> None:
    how = ("--select", "beam", "--beams", "2", "--candidates", "3")
    called = call("solve", QUESTION, "--reward", str(latent_rm_directory), *how)
    assert "beam of 2 beams x 3 candidates" in called.out


def test_a_reward_makes_best_of_n_the_default_and_the_score_is_reported(
    call: Callable, latent_rm_directory: Path
) -> None:
    called = call("solve", QUESTION, "--reward", str(latent_rm_directory), "--n", "3", "--json")
    assert called.code == 0
    result = strict(called.out)
    scores = [trajectory["score"] for trajectory in result["trajectories"]]
    assert result["select"] == "best_of_n"
    assert result["score"] == max(scores) == scores[result["chosen"]]


def test_scores_that_are_not_finite_become_null_and_are_warned_of(
    call: Callable, latent_rm: LatentRM, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = copy.deepcopy(latent_rm)
    broken.module.classifier.bias.fill_(float("nan"))
    monkeypatch.setattr("latent_ext.cli.solve.as_reward", lambda *_, **__: broken)
    called = call("solve", QUESTION, "--reward", "broken", "--n", "2", "--json")
    assert called.code == 0
    result = strict(called.out)
    assert result["answer"] is None
    assert result["trajectories"][0]["step_scores"] == [None] * 6
    assert "latent-ext: warning: question 0, trajectory 0: the score is not finite" in called.err


def test_words_outside_the_vocabulary_are_warned_of_on_standard_error(call: Callable) -> None:
    called = call("solve", "Omar has 23 zeppelins.", "--reward", "none", "--n", "1", "--json")
    assert called.code == 0
    assert "zeppelins" in called.err
    assert len(called.out.splitlines()) == 1


def test_a_demo_of_one_problem_is_strict_json(
    call: Callable, latent_rm: LatentRM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latent_ext.cli.demo.load_reward", lambda *_name: latent_rm)
    called = call("demo", "--limit", "1", "--n", "2", "--json")
    assert called.code == 0
    shown = strict(called.out)
    assert shown["problems"] == 1
    assert all(row["standard_error"] is None for row in shown["rows"])


def test_a_demo_is_a_table_for_people(
    call: Callable, latent_rm: LatentRM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latent_ext.cli.demo.load_reward", lambda *_name: latent_rm)
    called = call("demo", "--limit", "2", "--n", "2", "--seeds", "2")
    assert called.code == 0
    assert "coverage (a perfect selector)" in called.out


def test_an_interrupt_exits_with_130(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_settings: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("latent_ext.cli.solve.run_solve", interrupted)
    # A background job starts with the signal ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        called = call("solve", QUESTION, "--reward", "none")
    finally:
        signal.signal(signal.SIGINT, before)
    assert called.code == 130
    assert "Traceback" not in called.err


def test_a_closed_pipe_ends_the_run_without_a_traceback() -> None:
    command = [sys.executable, "-m", "latent_ext_cli", "info", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_the_installed_module_answers_a_malformed_call_with_one_line() -> None:
    command = [sys.executable, "-m", "latent_ext_cli", "solve", "--qqq"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "latent-ext: error: No such option: --qqq\n"


@pytest.mark.parametrize(("seconds", "appears"), [(1.9, False), (2.1, True)])
def test_progress_appears_after_two_seconds_and_never_on_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: float, appears: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock = iter([0.0, seconds])
    monkeypatch.setattr("latent_ext.cli.progress._now", lambda: next(clock))
    with reporting("counting") as report:
        report(1, 2)
        print("a result")
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert ("counting" in err) == appears


def test_strict_json_has_no_nan_and_no_infinity() -> None:
    value = {"a": [float("nan"), 1.5, (float("-inf"),)], "b": None, "c": "NaN"}
    assert strict(strict_json(value)) == {"a": [None, 1.5, [None]], "b": None, "c": "NaN"}


@pytest.mark.parametrize("reward", ["deviation", "answer_logprob"])
def test_a_reward_without_training_is_named_in_the_settings(call: Callable, reward: str) -> None:
    called = call("solve", QUESTION, "--reward", reward, "--sampler", "dropout:0.2", "--n", "2", "--json")
    assert called.code == 0
    assert strict(called.out)["settings"]["reward"] == reward
