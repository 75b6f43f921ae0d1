"""What the tests of chat-template families share: tokenizers, random tensors on disk, and answers compared by logits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from random_models import keys_of
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.engine import choose_engine
from latent_ext.engine.base import Answers, Engine, LatentRequest, LatentRun
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.philox import gumbels
from latent_ext.ops.sites import TOKEN
from latent_ext.ops.tolerances import assert_close, tolerance
from latent_ext.samplers import Sampler
from latent_ext_cli.app import main

QUESTIONS = ("Omar has 23 stones. He loses 6.", "7")
SEED = 0x1234567890ABCDEF
MAX_TOKENS = 4
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|reply|>{% endif %}"
)


def write_tokenizer(directory: Path, added: Sequence[str]) -> int:
    """The shipped tokenizer with further tokens and a chat template; returns its number of ids."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_GENERATOR)
    tokenizer.add_tokens([*added, "<|system|>", "<|user|>", "<|reply|>"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    return len(tokenizer)


def write_checkpoint(directory: Path, config: dict, tensors: dict[str, Tensor]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors"
    )
    return directory


def random_tensors(shapes: dict[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """Larger than usual initial weights, norms around 1, so that every part matters."""
    drawn = {name: torch.randn(shape, generator=generator) * 0.15 for name, shape in shapes.items()}
    return {name: value + ("norm" in name or "ln_f" in name) * 1.0 for name, value in drawn.items()}


def solve_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], directory: Path, *options: object
) -> dict:
    """The parsed JSON line that ``latent-ext solve`` prints for one question; nothing may go wrong."""
    given = (
        "solve",
        QUESTIONS[0],
        "--model",
        directory,
        "--n",
        2,
        "--max-answer-tokens",
        MAX_TOKENS,
        "--json",
    )
    monkeypatch.setattr(sys, "argv", ["latent-ext", *map(str, (*given, *options))])
    capsys.readouterr()  # what writing the checkpoint said
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, ""), f"{ended.value.code}: {err}"
    return json.loads(out)


def engine_of(model: LatentModel, name: str) -> Engine:
    return choose_engine(model, name, max_answer_tokens=MAX_TOKENS)[0]


def sample(
    engine: Engine,
    prompts: Sequence[Tensor],
    sampler: Sampler | str,
    count: int = 2,
    keys: Tensor | None = None,
) -> LatentRun:
    sampler = Sampler.parse(sampler) if isinstance(sampler, str) else sampler
    request = LatentRequest(prompts, keys_of(prompts, count) if keys is None else keys, sampler, SEED)
    return engine.sample(request, engine.read_prompts(prompts, sampler))


def answer(engine: Engine, run: LatentRun, temperature: float = 0.0) -> Answers:
    return engine.answer(run, torch.arange(run.rows), max_tokens=MAX_TOKENS, temperature=temperature)


def assert_rows_agree(actual: LatentRun, expected: LatentRun, kind: str) -> None:
    """Thoughts of two runs, row by row; one row may part, where rounding decides which token is among the heaviest."""
    assert actual.thoughts.shape == expected.thoughts.shape
    parted = []
    for row in range(actual.rows):
        try:
            assert_close(actual.thoughts[row], expected.thoughts[row], kind)
        except AssertionError as error:
            parted.append(f"row {row}: {error}")
    assert len(parted) <= 1, "\n".join(parted)


def assert_tokens_follow(
    answers: Answers,
    row: int,
    first_position: int,
    key: Tensor,
    closing: Sequence[int],
    logits_behind: Callable[[list[int]], Tensor],
    temperature: float = 0.0,
) -> None:
    """Every token of an answer is the best one behind those before it, up to rounding; so is its end.

    Args:
        first_position: of the first answer token.
        closing: ids that end an answer.
        logits_behind: answer tokens so far -> float32 [vocabulary], re-computed.
    """
    written = answers.tokens[row]
    for place in range(len(written) + bool(answers.finished[row])):
        scores = logits_behind(written[:place]).float()
        if temperature > 0.0:
            position = torch.tensor([first_position + place])
            scores = scores / temperature + gumbels(SEED, key.reshape(1), position, TOKEN, len(scores))[0]
        lead = scores.max() - scores[written[place] if place < len(written) else list(closing)].max()
        assert lead <= tolerance("logit_gap", torch.float32).atol
    assert bool(answers.finished[row]) or len(written) == MAX_TOKENS
    assert not set(written) & set(closing)
