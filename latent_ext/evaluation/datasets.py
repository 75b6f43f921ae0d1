"""Datasets of a recipe: problems with canonical golds, from the package, a file, the Hub or the generator.

Files follow one of three layouts, which are told apart line by line:

    ours       {"id", "question", "answer"}, JSONL or a JSON list
    LatentTTS  a JSON list of {"question", "answer", "steps"}; answers may hold thousands separators
    GSM8K      JSONL of {"question", "answer"}, the gold behind the last "####" of the answer
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from latent_ext.evaluation import shifts
from latent_ext.evaluation.checkers import Checker
from latent_ext.evaluation.problems import (
    NamedProblem,
    ProblemError,
    as_problem,
    read_problems,
    shipped_problems,
)
from latent_ext.evaluation.recipe import DatasetSpec
from latent_ext.recipes import shown

_GSM8K_MARK = "####"


@dataclass(frozen=True)
class Dataset:
    """Problems of one name.

    Attributes:
        name: as the recipe gives it.
        problems: each with a gold in the canonical form of the run's checker.
    """

    name: str
    problems: tuple[NamedProblem, ...]

    @property
    def hash(self) -> str:
        """32 hex digits of the BLAKE2b over ids, questions and golds, in order."""
        listed = [[problem.id, problem.question, problem.answer] for problem in self.problems]
        text = json.dumps(listed, ensure_ascii=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load_dataset(spec: DatasetSpec, checker: Checker) -> Dataset:
    """The problems that a recipe asks for.

    Raises:
        ValueError: naming the dataset and the line, split or package at fault.
    """
    problems: Iterable[NamedProblem]
    if spec.shipped is not None:
        problems = shipped_problems(spec.shipped)
    elif spec.file is not None:
        problems = read_problems(spec.file, columns=spec.columns)
    elif spec.hub is not None:
        problems = _from_hub(spec)
    else:
        problems = _generated(spec.generate or {})
    listed = list(problems)[: spec.limit]
    if not listed:
        raise ProblemError(f"dataset {spec.name}: holds no problem")
    return Dataset(spec.name, tuple(_with_golds(listed, spec.name, checker)))


def gold_text(answer: str) -> str:
    """The gold in an answer: what stands behind the last "####", or all of it.

    >>> gold_text("2 + 3 = 5 apples. #### 5")
    '5'
    """
    return answer.rpartition(_GSM8K_MARK)[2].strip()


def _with_golds(problems: Sequence[NamedProblem], name: str, checker: Checker) -> Iterable[NamedProblem]:
    for place, problem in enumerate(problems, start=1):
        where = f"dataset {name}: problem {place} (id {shown(problem.id)})"
        if problem.answer is None:
            raise ProblemError(f"{where} has no answer; one is needed to evaluate")
        try:
            gold = checker.gold(gold_text(problem.answer))
        except ValueError as error:
            raise ProblemError(f"{where}: {error}") from None
        yield NamedProblem(problem.id, problem.question, gold)


def _from_hub(spec: DatasetSpec) -> Iterable[NamedProblem]:
    assert spec.hub is not None
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(
            f"dataset {spec.name}: hub needs the extra 'hub': pip install 'latent_ext[hub]'"
        ) from None
    try:
        # A directory of data files is loaded in the same way, without a network.
        rows = datasets.load_dataset(spec.hub, spec.config, split=spec.split)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"dataset {spec.name}: {spec.hub} cannot be loaded from the Hub: {reason}") from None
    for place, row in enumerate(rows):
        yield as_problem(dict(row), f"{spec.hub}, row {place}", str(place), columns=spec.columns)


def _generated(asked: dict[str, Any]) -> Iterable[NamedProblem]:
    drawn = shifts.problems(asked["shift"], count=asked["count"], seed=asked["seed"])
    return [NamedProblem(problem.id, problem.question, problem.answer) for problem in drawn]
