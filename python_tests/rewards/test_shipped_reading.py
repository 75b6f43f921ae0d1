"""The rewards that read answers and are shipped, on the generator that they were trained on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import latent_ext
from latent_ext.assets import SHIPPED_SAMPLER
from latent_ext.evaluation.metrics import correct_flags, within_question_auc
from latent_ext.evaluation.problems import shipped_problems


# AUC that each is well above, and a coin's 0.5 well below.
@pytest.mark.parametrize(("reward", "least"), [("answer_reading", 0.65), ("answer_rm", 0.75)])
def test_it_ranks_the_shipped_models_trajectories_on_problems_that_it_was_not_trained_on(
    reward: str, least: float
) -> None:
    model, problems = latent_ext.load(), shipped_problems("valid", 120)
    with warnings.catch_warnings():
        # It belongs to this sampler and generator, so there is nothing to warn of.
        warnings.simplefilter("error")
        results = latent_ext.solve(
            model,
            [problem.question for problem in problems],
            n=16,
            sampler=SHIPPED_SAMPLER,
            reward=reward,
            max_answer_tokens=24,
        )
    areas = [
        within_question_auc(result.scores, correct_flags(result, str(problem.answer)))
        for result, problem in zip(results, problems, strict=True)
    ]
    defined = [area for area in areas if area is not None]
    # Numbers are functions of the seed: this is one figure.
    assert len(defined) > 20
    assert np.mean(defined) > least
