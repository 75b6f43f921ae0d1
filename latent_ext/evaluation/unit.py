"""Units of work: some questions of one (dataset, arm, seed), answered together, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from latent_ext.evaluation.datasets import Dataset
from latent_ext.evaluation.ledger import Key, Line
from latent_ext.evaluation.recipe import EvaluationRecipe


@dataclass(frozen=True)
class Question:
    """A problem and its place in its dataset, counted from 0."""

    index: int
    id: str
    question: str
    gold: str


@dataclass(frozen=True)
class Unit:
    """Questions that are answered in one call of `latent_ext.solve`."""

    dataset: str
    arm: str
    seed: int
    questions: tuple[Question, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for executors that send units as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Unit:
        """The inverse of `to_dict`."""
        return cls(**found | {"questions": tuple(Question(**one) for one in found["questions"])})


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        lines: of the ledger, one per finished question.
        failures: of questions that could not be answered: {"dataset", "arm", "seed", "id", "index", "error"}.
        seconds: wall time.
        worker: host and process that did it.
    """

    lines: list[Line]
    failures: list[dict[str, Any]]
    seconds: float
    worker: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """The part ``number`` of ``of``: every ``of``-th problem of each dataset, so that shards are of like difficulty."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads "2/3", the second of three.

        Raises:
            ValueError: for anything else.
        """
        number, _, of = text.partition("/")
        if number.isdecimal() and of.isdecimal() and len(of) < 10 and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise ValueError(f"shard: got {text!r}; i/n with 1 <= i <= n is needed, for example 2/3")

    def holds(self, index: int) -> bool:
        """Whether a problem belongs to it."""
        return index % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def pending_units(
    recipe: EvaluationRecipe, datasets: Sequence[Dataset], done: set[Key], shard: Shard, batch: int
) -> Iterator[Unit]:
    """Units of what is not done, in canonical order, at most `batch` questions each."""
    for dataset in datasets:
        for arm in recipe.arms:
            for seed in recipe.seeds:
                left = [
                    Question(index, problem.id, problem.question, problem.answer or "")
                    for index, problem in enumerate(dataset.problems)
                    if shard.holds(index) and (dataset.name, arm.name, seed, index) not in done
                ]
                for start in range(0, len(left), batch):
                    yield Unit(dataset.name, arm.name, seed, tuple(left[start : start + batch]))
