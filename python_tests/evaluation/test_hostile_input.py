"""10,000 malformed dataset lines, recipes and ledgers: one short error each, nothing else, and no result lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from latent_ext.evaluation.checkers import checker
from latent_ext.evaluation.datasets import load_dataset
from latent_ext.evaluation.ledger import LedgerError, as_line, cut_torn_line, line_text, read_ledger
from latent_ext.evaluation.recipe import DatasetSpec, read_recipe
from python_tests.evaluation.runs import plain_recipe

LINES, RECIPES, LEDGERS = 6500, 500, 3000

_ODD = (
    None, True, -1, 0, 1e308, 10**400, "", " ", "\x00", "\ud800", "NaN", "1e999999", "../../x", [], {}, [[]],
    {"a": {"b": []}}, "x" * 5000, ["none"] * 50, "{{7*7}}", "<script>", "0x10", "१२",
)  # fmt: skip
_LINE = {
    "dataset": "five", "arm": "noise", "seed": 0, "id": "a", "index": 0, "question_key": "0f", "gold": "9",
    "answers": ["9", None], "correct": [True, False], "scores": [0.5, None], "step_scores": [[0.25, 0.25], [0.1, None]],
    "logprobs": [-0.5, None], "thoughts": [2, 2], "answer_tokens": [3, None], "finished": [True, None], "errors": {},
    "chosen": 0, "cost": {"prompt_tokens": 9, "thoughts": 4, "answer_tokens": 3, "flops": None},
}  # fmt: skip


@pytest.fixture
def rng(generator: torch.Generator) -> random.Random:
    return random.Random(int(torch.randint(1 << 62, (), generator=generator)))


def spoiled(text: str, rng: random.Random) -> str:
    """The text with a few places cut, doubled or replaced."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randint(0, 12))
        text = (
            text[:start]
            + rng.choice(["", text[start:end] * 2, rng.choice('{}[]",:&*!-\n\t\x00é#'), "1e999"])
            + text[end:]
        )
    return text


def changed(value: object, rng: random.Random) -> object:
    """The value with one part of it, at any depth, replaced by something odd, removed or misnamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kept = {name: inner for name, inner in value.items() if name != key}
        action = rng.random()
        if action < 0.15:
            return kept
        if action < 0.25:
            return kept | {f"{key}s": value[key]}
        return value | {key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    return rng.choice(_ODD)


def refusal(call: Callable[[], object]) -> str | None:
    """The message of a clear refusal; None where the input was good after all. Anything else fails the test."""
    try:
        call()
        return None
    except ValueError as error:
        refused = error
    assert type(refused).__name__ in ("ValueError", "ProblemError", "LedgerError")
    assert 0 < len(str(refused)) < 1200
    return str(refused)


def test_malformed_dataset_lines_are_named_by_file_and_line(rng: random.Random, tmp_path: Path) -> None:
    good = {"id": "a", "question": "How many?", "answer": "He has 9. #### 9"}
    path, number, refused = tmp_path / "mine.jsonl", checker("number"), 0
    spec = DatasetSpec("mine", file=str(path))
    for _ in range(LINES):
        line = json.dumps(changed(good, rng)) if rng.random() < 0.6 else spoiled(json.dumps(good), rng)
        path.write_text(json.dumps(good) + "\n" + line, encoding="utf-8", errors="surrogatepass")
        message = refusal(lambda: load_dataset(spec, number))
        if message is not None:
            refused += 1
            assert (
                "mine.jsonl, line " in message
                or "dataset mine: problem " in message
                or "cannot be read" in message
            )
    assert refused > LINES / 4


def test_malformed_recipes_are_refused_by_key(rng: random.Random, tmp_path: Path) -> None:
    path, refused = tmp_path / "recipe.yaml", 0
    text = yaml.safe_dump(plain_recipe())
    for _ in range(RECIPES):
        if rng.random() < 0.6:
            # JSON is YAML, and dumps what a YAML dumper refuses.
            path.write_text(json.dumps(changed(plain_recipe(), rng)), encoding="utf-8")
        else:
            path.write_text(spoiled(text, rng), encoding="utf-8")
        message = refusal(lambda: read_recipe(path).to_yaml())
        refused += message is not None
    assert refused > RECIPES / 4


def test_malformed_ledgers_are_named_by_line_and_left_as_they_are(rng: random.Random, tmp_path: Path) -> None:
    assert as_line(line_text(_LINE).encode(), "here") == _LINE
    path, refused = tmp_path / "ledger.jsonl", 0
    before = [line_text(_LINE | {"index": index}) for index in range(2)]
    for _ in range(LEDGERS):
        third = _LINE | {"index": 2}
        line = json.dumps(changed(third, rng)) if rng.random() < 0.6 else spoiled(line_text(third), rng)
        content = ("".join(before) + line).encode("utf-8", errors="surrogatepass") + rng.choice(
            [b"\n", b"", b"\xff"]
        )
        path.write_bytes(content)
        message = refusal(lambda: read_ledger(tmp_path))
        assert path.read_bytes() == content
        if message is not None:
            refused += 1
            assert "ledger.jsonl" in message
        else:
            cut_torn_line(tmp_path)
            assert read_ledger(tmp_path)[:2] == [_LINE | {"index": 0}, _LINE | {"index": 1}]
    assert refused > LEDGERS / 4


def test_a_torn_line_is_cut_and_whole_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    whole = line_text(_LINE)
    for torn in ("", "{", whole[:-1], "\x00" * 9):
        path.write_text(whole + torn)
        assert read_ledger(tmp_path) == [_LINE]
        cut_torn_line(tmp_path)
        assert path.read_text() == whole


def test_a_damaged_line_between_whole_ones_is_not_dropped_silently(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(line_text(_LINE) + "{\n" + line_text(_LINE | {"index": 1}))
    with pytest.raises(LedgerError, match=r"ledger\.jsonl, line 2 is not JSON"):
        read_ledger(tmp_path)
