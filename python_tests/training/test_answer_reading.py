"""A reward on decoded answers, and its two weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latent_ext.rewards import AnswerReading
from latent_ext.search import best_of_n
from latent_ext.training.fit_answer_reading import fit_answer_reading
from latent_ext.training.labelled import LabelledQuestion

N = 6


def question(generator: torch.Generator, agreement: float, confidence: float) -> LabelledQuestion:
    """A question whose one right trajectory is drawn from the softmax of the score with these weights."""
    agrees = torch.rand(N, generator=generator) < 0.5
    logprobs = -2.0 * torch.rand(N, generator=generator)
    odds = (agreement * agrees + confidence * logprobs).softmax(0)
    right = int(torch.multinomial(odds, 1, generator=generator))
    return LabelledQuestion(
        "q", "7", torch.tensor([1]), torch.tensor([2]), "7", torch.zeros(N, 1, 2),
        torch.zeros(N, 1, dtype=torch.int64), 1, torch.arange(N) == right,
        ["7" if agreed else str(100 + n) for n, agreed in enumerate(agrees)], torch.ones(N, dtype=torch.bool), logprobs,
    )  # fmt: skip


def test_the_fit_finds_the_weights_that_decided(generator: torch.Generator) -> None:
    fitted = fit_answer_reading(
        [question(generator, 1.0, 2.0) for _ in range(4000)], {"sampler": "noise:0.6"}
    )
    # Five standard errors of these estimates, from the curvature of the likelihood at 4000 questions.
    assert abs(fitted.agreement - 1.0) < 0.2
    assert abs(fitted.confidence - 2.0) < 0.35
    assert fitted.trained_on == {"sampler": "noise:0.6"}


def test_what_has_no_answer_or_no_log_probability_is_never_selected() -> None:
    reading = AnswerReading(0.5, 1.0)
    answers = [None, "4", "5", "6"]
    scores = reading.scores(answers, [0.0, float("nan"), -3.0, None], "4")
    assert scores == [None, None, -3.0, None]
    assert best_of_n(answers, scores).chosen == 2


def test_the_noise_free_answer_gains_its_weight() -> None:
    assert AnswerReading(0.5, 2.0).scores(["4", "5"], [-1.0, -1.0], "5") == [-2.0, -1.5]
    assert AnswerReading(0.5, 2.0).scores(["4", None], [-1.0, -1.0], None) == [-2.0, None]


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    reading = AnswerReading(0.388, 0.627, {"sampler": "noise:0.6:relative"})
    reading.save(tmp_path / "reading.json")
    assert AnswerReading.load(tmp_path / "reading.json") == reading


@pytest.mark.parametrize(
    "text", ["", "[]", '{"agreement": 1}', '{"agreement": NaN, "confidence": 1, "trained_on": {}}']
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "reading.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"path: .*reading\.json holds"):
        AnswerReading.load(path)


def test_questions_that_say_nothing_are_refused(generator: torch.Generator) -> None:
    settled = LabelledQuestion(
        **{**vars(question(generator, 1.0, 1.0)), "correct": torch.ones(N, dtype=torch.bool)}
    )
    with pytest.raises(ValueError, match="none of the 2 has right and wrong trajectories"):
        fit_answer_reading([settled, settled])
