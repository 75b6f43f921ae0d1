"""A worker: models loaded once, units in, ledger lines out. Every executor runs this and nothing else."""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from latent_ext.evaluation.checkers import checker
from latent_ext.evaluation.ledger import Line
from latent_ext.evaluation.recipe import Arm, EvaluationRecipe
from latent_ext.evaluation.unit import Outcome, Question, Unit
from latent_ext.models import load
from latent_ext.ops.keys import question_key
from latent_ext.rewards import as_reward
from latent_ext.search import SELECTORS, Result, best_of_n, majority_vote, solve, weighted_vote

# Columns as search-and-learn's users know them; naive is the best-scored trajectory.
PREDICTIONS = {"maj": majority_vote, "weighted": weighted_vote, "naive": best_of_n}


class Worker:
    """Answers units of a recipe.

    Args:
        recipe: as run.
        threads: CPU threads; None leaves torch's number as it is.

    Raises:
        ValueError: if a model, reward, arm or checker of the recipe cannot be had, naming it.
    """

    def __init__(self, recipe: EvaluationRecipe, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.recipe = recipe
        self.checker = checker(recipe.checker)
        self.model = load(
            recipe.model,
            family=recipe.family,
            latent_length=recipe.latent_length,
            switches=recipe.switches,
            base=recipe.base,
            device=recipe.device,
        )
        names = {name for arm in recipe.arms if (name := recipe.reward_of(arm)) is not None}
        self.rewards: dict[str, Any] = {
            name: as_reward(name, positions=recipe.reward_positions, device=recipe.device)  # type: ignore[arg-type]
            for name in sorted(names)
        }
        self._arms = {arm.name: arm for arm in recipe.arms}

    def solve(self, arm: Arm, questions: Sequence[str], seed: int) -> list[Result]:
        """Results of an arm; with no question it checks the arm and computes nothing.

        Raises:
            ValueError: as `latent_ext.solve`, with the arm's name before it.
        """
        recipe, reward = self.recipe, self.recipe.reward_of(arm)
        try:
            return solve(
                self.model,
                questions,
                **({"n": arm.n} if arm.is_pool else {}) | arm.settings,
                reward=None if reward is None else self.rewards[reward],
                decode="all",
                seed=seed,
                engine=recipe.engine,
                weights=recipe.weights,
                max_answer_tokens=recipe.max_answer_tokens,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"arm {arm.name}: {error}") from None
        except RuntimeError as error:
            # Before the run: an engine that cannot do what the arm asks for. In it: whatever went wrong.
            if questions:
                raise
            raise ValueError(f"arm {arm.name}: {error}") from None

    def __call__(self, unit: Unit) -> Outcome:
        """Lines of a unit. A question that cannot be answered is a failure and costs the others nothing."""
        started = time.monotonic()
        failures: list[dict[str, Any]] = []
        lines = self._lines(unit, unit.questions, failures)
        worker = {"host": platform.node(), "pid": os.getpid()}
        return Outcome(lines, failures, round(time.monotonic() - started, 3), worker)

    def _lines(self, unit: Unit, questions: Sequence[Question], failures: list[dict[str, Any]]) -> list[Line]:
        arm = self._arms[unit.arm]
        try:
            with warnings.catch_warnings():
                # What is not finite stands in a line's errors; what concerns an arm was said before the run.
                warnings.simplefilter("ignore")
                results = self.solve(arm, [question.question for question in questions], unit.seed)
            return [
                self.line(unit, arm, question, result)
                for question, result in zip(questions, results, strict=True)
            ]
        except Exception as error:
            if len(questions) > 1:
                return [line for one in questions for line in self._lines(unit, [one], failures)]
            (question,) = questions
            place = {"dataset": unit.dataset, "arm": unit.arm, "seed": unit.seed, "id": question.id}
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            failures.append(place | {"index": question.index, "error": reason})
            return []

    def line(self, unit: Unit, arm: Arm, question: Question, result: Result) -> Line:
        """The ledger line of one result."""
        trajectories = result.trajectories
        answers = [
            None if trajectory.error is not None else self.checker.answer(trajectory)
            for trajectory in trajectories
        ]
        scores = result.scores
        assert result.cost is not None
        # A selection on the family's own answers; another checker may tell them apart in another way.
        rule = SELECTORS.get(result.select)
        chosen = result.chosen if rule is None else rule(answers, scores).chosen
        prompt = self.model.encode(question.question)
        line: Line = {
            "dataset": unit.dataset,
            "arm": unit.arm,
            "seed": unit.seed,
            "id": question.id,
            "index": question.index,
            "question_key": f"{question_key(prompt) & (1 << 64) - 1:016x}",
            "gold": question.gold,
            "answers": answers,
            "correct": [self.checker.equal(answer, question.gold) for answer in answers],
            "scores": None if all(score is None for score in scores) else scores,
            "step_scores": None
            if all(one.step_scores is None for one in trajectories)
            else [None if one.step_scores is None else _finite(one.step_scores) for one in trajectories],
            "logprobs": _finite([one.logprob for one in trajectories]),
            "thoughts": [one.steps for one in trajectories],
            "answer_tokens": [None if one.tokens is None else len(one.tokens) for one in trajectories],
            "finished": [one.finished for one in trajectories],
            "errors": {str(one.index): one.error for one in trajectories if one.error is not None},
            "chosen": chosen,
            "cost": result.cost.to_dict(),
        }
        if arm.is_pool:
            for name, of in PREDICTIONS.items():
                for n in self.recipe.at:
                    if n <= len(answers) and (name == "maj" or line["scores"] is not None):
                        place = of(answers[:n], scores[:n]).chosen
                        line[f"pred_{name}@{n}"] = None if place is None else answers[place]
        return line


def _finite(values: Sequence[float | None]) -> list[float | None]:
    return [value if value is not None and math.isfinite(value) else None for value in values]
