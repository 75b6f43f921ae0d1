"""Whether a baseline and `latent_ext` found the same: no ratio is printed for results that differ.

What rounding alone may decide does not count as a difference: scores that lie closer than the tolerance table
allows are a tie, and an answer is compared up to the first token whose lead over the second-best is below the
table's "logit_gap". With reduced weights every token may be decided by rounding: there answers are counted as
equal or not, and the winner alone decides.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from baselines.task import Outcome
from torch import Tensor

from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.tolerances import TOLERANCES, Tolerance, tolerance
from latent_ext.search.result import Result
from latent_ext.search.select import SELECTORS

# The storage whose tolerances hold for thoughts computed with each weight format.
STORAGE = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Agreement:
    """How one baseline's outcome compares with ours.

    Attributes:
        same: whether every question has the same winner, ties allowed, and (fp32) the same answers.
        questions: how many were compared.
        identical_winners: how many chose the very same trajectory.
        answers: how many answers were decoded on both sides.
        identical_answers: how many of these are equal token by token.
        score_difference: largest difference of a summed score.
        differences: one sentence per difference that rounding does not explain.
    """

    same: bool
    questions: int
    identical_winners: int
    answers: int
    identical_answers: int
    score_difference: float
    differences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    model: LatentModel, ours: Sequence[Result], theirs: Outcome, *, weights: str = "fp32"
) -> Agreement:
    """Compares a run of `latent_ext.solve` with a baseline that drew the same random numbers.

    Args:
        model: the generator, to look up how narrowly a token was decided.
        ours: results with thoughts (`return_thoughts=True`).
        theirs: the baseline's outcome.
        weights: format that ours ran with.
    """
    storage = STORAGE[weights]
    # A format without an entry of its own gets no slack.
    known = storage in TOLERANCES["step_score"]
    slack = tolerance("step_score", storage) if known else Tolerance(0.0, 0.0)
    differences: list[str] = []
    winners = compared = equal = 0
    largest = 0.0
    for b, result in enumerate(ours):
        errors = (slack.atol + slack.rtol * theirs.step_scores[b].abs()).sum(dim=1).tolist()
        scores = theirs.scores[b].tolist()
        for trajectory, score in zip(result.trajectories, scores, strict=True):
            if trajectory.score is not None:
                largest = max(largest, abs(trajectory.score - score))
        chosen = theirs.chosen[b]
        winners += result.chosen == chosen
        if result.chosen != chosen and not _tied(result, chosen, scores, errors):
            differences.append(f"question {b}: ours chose trajectory {result.chosen}, the baseline {chosen}")
        for n, (trajectory, written) in enumerate(zip(result.trajectories, theirs.tokens[b], strict=True)):
            if trajectory.tokens is None or written is None:
                continue
            compared += 1
            if trajectory.tokens == written:
                equal += 1
            elif weights == "fp32" and not _differs_by_rounding(
                model, result.question, trajectory.thoughts, trajectory.tokens, written
            ):
                differences.append(f"question {b}, trajectory {n}: another answer")
    return Agreement(not differences, len(ours), winners, compared, equal, largest, tuple(differences))


def _tied(result: Result, theirs: int | None, scores: Sequence[float], errors: Sequence[float]) -> bool:
    """Whether the baseline's own scores place our winner level with its own, up to rounding."""
    mine = result.chosen
    if mine is None or theirs is None:
        return False
    gap = errors[mine] + errors[theirs]
    close = abs(scores[theirs] - scores[mine]) <= gap
    if result.select == "best_of_n":
        return close
    # Our answers under the baseline's scores: answers are compared apart from the vote.
    votes = SELECTORS[result.select](result.answers, scores).votes
    first = next(iter(votes))
    answer = result.answers[mine]
    if answer == first:
        return answer != result.answers[theirs] or close
    # A weight is exp(score) over a sum of such: each is off by a factor of exp(2 * error) at most.
    worst = 4.0 * max(errors)
    return answer is not None and votes[first] <= votes.get(answer, 0.0) * math.exp(worst)


@torch.no_grad()
def _differs_by_rounding(
    model: LatentModel, question: str, thoughts: Tensor | None, ours: list[int], theirs: list[int]
) -> bool:
    """Whether the first token that differs was decided by less than the table's "logit_gap"."""
    assert thoughts is not None
    eos = model.ids.eos
    place = next(i for i, (a, b) in enumerate(zip([*ours, eos], [*theirs, eos], strict=False)) if a != b)
    hf: Any = copy.deepcopy(model.hf).double()
    embedding = hf.get_input_embeddings()
    written = torch.tensor([model.ids.end, *ours[:place]])
    inputs = torch.cat([embedding(model.encode(question)), thoughts.double(), embedding(written)])
    best = hf(inputs_embeds=inputs.unsqueeze(0)).logits[0, -1].topk(2).values
    return bool(best[0] - best[1] <= tolerance("logit_gap", torch.float32).atol)
