"""What each rule reaches on a pool, question by question, read off ledger lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent_ext.evaluation.ledger import Line
from latent_ext.evaluation.metrics import SelectionRule, pass_at_k, selected_share
from latent_ext.search import best_of_n, majority_vote, weighted_vote

COVERAGE, MAJORITY, WEIGHTED, BEST = "coverage", "majority vote", "weighted vote", "best-of-N"
RULES: dict[str, SelectionRule] = {MAJORITY: majority_vote, WEIGHTED: weighted_vote, BEST: best_of_n}


@dataclass(frozen=True)
class Pool:
    """Lines of one dataset and arm, by seed and question: ``lines[seed][question]``; no question is missing anywhere."""

    lines: Sequence[Sequence[Line]]

    @property
    def seeds(self) -> int:
        return len(self.lines)

    @property
    def problems(self) -> int:
        return len(self.lines[0])

    @property
    def scored(self) -> bool:
        """Whether trajectories have scores, without which only majority and coverage are defined."""
        return any(line["scores"] is not None for row in self.lines for line in row)

    @property
    def width(self) -> int:
        """Trajectories that every question has."""
        return min(len(line["answers"]) for row in self.lines for line in row)

    def per_question(self, value: Callable[[Line], float]) -> NDArray[np.float64]:
        """[seeds, questions] of a value of each line."""
        return np.array([[value(line) for line in row] for row in self.lines], dtype=np.float64)

    def share(self, method: str, k: int) -> NDArray[np.float64]:
        """[seeds, questions]: how often `method` is right with k trajectories.

        Coverage is the unbiased pass@k; the rules are averaged over the disjoint groups of k among the trajectories.
        """
        if method == COVERAGE or k == 1:
            return self.per_question(lambda line: pass_at_k(len(line["correct"]), sum(line["correct"]), k))
        rule = RULES[method]
        return self.per_question(lambda line: selected_share(rule, *_columns(line), k))

    def chosen(self) -> NDArray[np.float64]:
        """[seeds, questions]: whether the arm's own choice is right."""
        return self.per_question(
            lambda line: float(line["chosen"] is not None and line["correct"][line["chosen"]])
        )


def _columns(line: Line) -> tuple[list[str | None], list[float | None], list[bool]]:
    answers: list[str | None] = line["answers"]
    scores: list[float | None] = line["scores"] if line["scores"] is not None else [None] * len(answers)
    return answers, scores, line["correct"]
