"""Every malformed call: one clear line on standard error, exit code 2, nothing on standard output."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

QUESTION = "Omar has 23 stones. He loses 6. How many stones does Omar have now?"
SOLVE = ("solve", QUESTION, "--reward", "none", "--n", "2")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--bogus",), "--bogus"),
        (("resolve",), "resolve"),
        (("solve", "--bogus"), "--bogus"),
        (("solve", QUESTION, "more"), "more"),
        (("solve",), "question"),
        (("solve", QUESTION, "--file", "problems.jsonl"), "not both"),
        (("solve", QUESTION, "--n", "many"), "--n"),
        (("solve", QUESTION, "--seed", "1.5"), "--seed"),
        ((*SOLVE, "--n", "0"), "--n: got 0"),
        ((*SOLVE, "--n", "-3"), "--n: got -3"),
        ((*SOLVE, "--sampler", "dropout"), "--sampler: got 'dropout'"),
        ((*SOLVE, "--beams", "4"), "--beams: got 4 with --select majority; it belongs to --select beam"),
        (
            (*SOLVE, "--select", "beam"),
            "--n: got 2 with --select beam; give --beams and --candidates instead",
        ),
        ((*SOLVE, "--sampler", "dropout:1.5"), "p: got 1.5"),
        ((*SOLVE, "--sampler", "noise:nan"), "sigma: got nan"),
        ((*SOLVE, "--scope", "prompt"), "scope: got 'prompt'"),
        ((*SOLVE, "--select", "first"), "select: got 'first'"),
        ((*SOLVE, "--select", "best_of_n"), "needs a reward; give --reward, or --select majority"),
        ((*SOLVE, "--extend"), "--extend: got True with --select majority"),
        (
            (*SOLVE, "--extend", "--select", "adaptive"),
            "it needs as --reward a LatentRM that reads thoughts alone, with --reward-positions real",
        ),
        ((*SOLVE, "--engine", "warp"), "engine: got 'warp'"),
        ((*SOLVE, "--rung", "warp"), "rung: got 'warp'"),
        ((*SOLVE, "--rung", "graph"), "the model is on cpu"),
        ((*SOLVE, "--device", "toaster"), "device: got 'toaster'"),
        ((*SOLVE, "--device", "cuda:99"), "device: got 'cuda:99'"),
        ((*SOLVE, "--temperature", "-1"), "temperature: got -1.0"),
        ((*SOLVE, "--temperature", "nan"), "temperature: got nan"),
        ((*SOLVE, "--top-p", "0"), "--top-p: got 0.0"),
        ((*SOLVE, "--top-p", "0.9"), "with --temperature 0, which draws nothing; give --temperature"),
        ((*SOLVE, "--sampler", "mix(none)"), "sampler: got 'mix(none)'"),
        ((*SOLVE, "--seed", str(1 << 64)), "seed: got"),
        ((*SOLVE, "--max-answer-tokens", "0"), "--max-answer-tokens: got 0"),
        ((*SOLVE, "--model", "no/such/directory"), "--model: 'no/such/directory'"),
        ((*SOLVE, "--reward", "no/such/directory"), "--reward: 'no/such/directory'"),
        ((*SOLVE, "--reward", "none.json"), "--reward: got 'none.json'; there is no such file"),
        ((*SOLVE, "--reward", "shipped", "--reward-positions", "padded"), "--reward-positions: got 'padded'"),
        ((*SOLVE, "--switch", "pads"), "--switch: got 'pads'"),
        (("solve", "  ", "--reward", "none"), "not blank"),
        (("solve", "\udcff", "--reward", "none"), "question"),
        (("solve", "Omar has 23 stones. " * 300, "--reward", "none"), "tokens; this model takes at most"),
        (("solve", "--file", "no_such_file.jsonl"), "no_such_file.jsonl cannot be read"),
        (("annotate", "labels"), "file: give either --file or --generate"),
        (("annotate", "labels", "--file", "no_such_file.jsonl"), "no_such_file.jsonl cannot be read"),
        (("annotate", "labels", "--generate", "2", "--rollouts", "0"), "--rollouts: got 0"),
        (("annotate", "labels", "--generate", "2", "--n", "0"), "--n: got 0"),
        (("annotate", "labels", "--generate", "2", "--sampler", "none"), "sampler: got 'none'"),
        (("annotate", "labels", "--generate", "2", "--steps", "3", "9"), "steps must be"),
        (("annotate", "no_labels_here", "--merge"), "run.json cannot be read"),
        (("annotate", "labels", "--generate", "2", "--merge"), "merge: takes no problems"),
        (("train-rm", "no_such_recipe.yaml"), "no_such_recipe.yaml cannot be read"),
        (("evaluate", "no_such_recipe.yaml", "--out", "run"), "no_such_recipe.yaml cannot be read"),
        (("evaluate", "recipe.yaml"), "--out"),
        (("evaluate", "recipe.yaml", "--out", "run", "--shard", "4/3"), "shard: got '4/3'"),
        (("evaluate", "recipe.yaml", "--out", "run", "--executor", "slurm"), "executor: got 'slurm'"),
        (("evaluate", "recipe.yaml", "--out", "run", "--threads", "0"), "threads: got 0"),
        (("evaluate", "recipe.yaml", "--out", "run", "--ray-address", "auto"), "--ray-address: got 'auto'"),
        (
            ("analyse", "runs/none"),
            "RECIPE|RUN: runs/none does not exist; a recipe (YAML) or the directory of a run",
        ),
        (("report", "runs/none"), "the directory of a run of latent-ext evaluate is needed"),
        (("merge", "no_such_run", "--out", "run"), "settings.json cannot be read"),
        (("info", "more"), "more"),
    ],
)
def test_a_malformed_call_names_what_is_wrong(
    refused: Callable[..., str], arguments: tuple[str, ...], named: str
) -> None:
    assert named in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ("--only", "distance"),
            "--only: got 'distance' (did you mean 'distances'?); allowed are distances, rank",
        ),
        (("--top", "0"), "--top: got 0"),
        (
            ("--map-method", "pac"),
            "--map-method: got 'pac' (did you mean 'pca'?); allowed are pca, tsne, umap",
        ),
        (
            ("--set", "arms.nose.n=3"),
            "--set: got 'arms.nose.n=3'; the list has no item 'nose' (did you mean 'noise'?)",
        ),
    ],
)
def test_a_malformed_analysis_computes_nothing(
    refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "datasets: [{name: five, shipped: test_5}]\narms: [{name: noise, sampler: 'noise:0.6', n: 4}]\n"
    )
    assert named in refused("analyse", str(recipe), "--out", str(tmp_path / "out"), *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--split", "train"), "allowed are test_2_5, test_5, test_6, valid"),
        (("--split", "../problems/valid"), "split: got"),
        (("--limit", "0"), "limit: got 0"),
        (("--limit", "-5"), "limit: got -5"),
        (("--seeds", "0"), "seeds: got 0"),
        (("--n", "0"), "n: got 0"),
        (("--sampler", "salt"), "sampler: got 'salt'"),
        (("--engine", "warp"), "engine: got 'warp'"),
    ],
)
def test_a_malformed_demo_computes_nothing(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    latent_rm: object,
    arguments: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.setattr("latent_ext.cli.demo.load_reward", lambda *_name: latent_rm)
    assert named in refused("demo", *arguments)


@pytest.mark.parametrize("line", ["{", "[1]", '{"question": ""}', '{"question": "q", "answer": NaN}', "7"])
def test_a_bad_line_is_named_with_its_file(refused: Callable[..., str], tmp_path: Path, line: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(f'{{"question": "7"}}\n\n{line}\n', encoding="utf-8")
    assert f"{path}, line 3" in refused("solve", "--file", str(path))


def test_an_empty_file_a_directory_and_bytes_that_are_no_text_are_refused(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text("\n")
    assert "holds no problem" in refused("solve", "--file", str(path))
    path.write_bytes(b"\xff\xfe\n")
    assert f"{path} cannot be read" in refused("solve", "--file", str(path))
    assert f"{tmp_path} cannot be read" in refused("solve", "--file", str(tmp_path))


def test_a_bad_line_on_standard_input_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('"7"\nnot json\n'))
    assert "line 2 is not JSON" in refused("solve", "-")


def test_standard_input_that_is_no_text_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert "cannot be read" in refused("solve", "-")


def test_a_command_that_cannot_be_imported_says_what_is_missing(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "latent_ext.cli.merge", None)
    assert "latent_ext.cli.merge" in refused("merge", "run", "--out", "out")


def test_no_command_shows_the_help_and_fails(call: Callable) -> None:
    called = call()
    assert called.code == 2
    assert "solve" in called.out
    assert called.err == ""
