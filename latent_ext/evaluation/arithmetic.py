"""Multi-step arithmetic word problems: the task the shipped model is trained and shown on.

A problem follows one running quantity through a story of `n_steps` operations::

    Mia has 19 apples. She loses 9. Soon she has 10 times as many. How many apples does Mia have now?
    <<19-9=10>> <<10*10=100>>                                                                      100

Values stay in [1, 1999]. Operands are small, and the larger values come from multiplying by ten, so that a
model of a million parameters can learn the arithmetic while the answers still spread over more than a
thousand values: the answer is decoded digit by digit, and token temperature is a fair control for latent
sampling.

The split of a problem is a function of its text (a hash), so splits are disjoint by construction and no
list of held-out problems is needed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_VALUE = 1999
MAX_STEPS = 6
SPLITS = ("train", "valid", "test")

_SMALL_FACTORS = (2, 3, 4, 5)
_MAX_SMALL_MULTIPLICAND = 30
_MAX_SMALL_DIVIDEND = 150

_NAMES = (
    ("Mia", "she", "her"),
    ("Anna", "she", "her"),
    ("Lena", "she", "her"),
    ("Nora", "she", "her"),
    ("Ruth", "she", "her"),
    ("Tom", "he", "him"),
    ("Ben", "he", "him"),
    ("Omar", "he", "him"),
    ("Paul", "he", "him"),
    ("Leo", "he", "him"),
)
_ITEMS = ("apples", "books", "coins", "eggs", "marbles", "pens", "shells", "stamps", "stones", "tickets")
_STARTS = ("{name} has {n} {items}.", "{name} starts with {n} {items}.")
_QUESTIONS = (
    "How many {items} does {name} have now?",
    "How many {items} does {name} have in the end?",
)
_SENTENCES = {
    "+": (
        "{They} buys {n} more.",
        "{They} finds {n} more.",
        "{They} wins {n} more.",
        "A friend gives {them} {n} more.",
    ),
    "-": ("{They} loses {n}.", "{They} sells {n}.", "{They} gives away {n}.", "A friend borrows {n}."),
    "*": ("Soon {they} has {n} times as many.", "The number grows to {n} times its size."),
    "/": (
        "{They} splits them into {n} equal piles and keeps one.",
        "{They} packs them into {n} equal boxes and keeps one.",
    ),
}


@dataclass(frozen=True)
class Distribution:
    """What stories are drawn from; the defaults are what the shipped model is trained on.

    Attributes:
        names: (name, subject pronoun, object pronoun), each equally likely.
        items: what is counted. A sentence that mentions a story's items otherwise is not drawn for it.
        starts, questions: first and last sentences, with {name}, {items}, {n} and the pronouns {they} and {them}.
        sentences: by operation "+", "-", "*" and "/", with {They} besides.
        first: smallest and largest first value.
        addends: smallest and largest number that is added or taken away.
    """

    names: tuple[tuple[str, str, str], ...] = _NAMES
    items: tuple[str, ...] = _ITEMS
    starts: tuple[str, ...] = _STARTS
    questions: tuple[str, ...] = _QUESTIONS
    sentences: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _SENTENCES)
    first: tuple[int, int] = (2, 30)
    addends: tuple[int, int] = (1, 9)


TRAINED = Distribution()


@dataclass(frozen=True)
class Problem:
    """One word problem.

    Attributes:
        id: `"<split>-<12 hex digits of the text's hash>"`, the same in every run that generates the problem.
        question: the story and its question, one line of English.
        steps: the chain, one `"<<19-9=10>>"` per operation, in the order of the story.
        answer: the final value in decimal, 1 to 4 digits.
    """

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def n_steps(self) -> int:
        """Number of operations."""
        return len(self.steps)

    def to_json(self) -> str:
        """The problem as one JSON line with the fields id, question, steps, answer, n_steps."""
        return json.dumps(
            {
                "id": self.id,
                "question": self.question,
                "steps": list(self.steps),
                "answer": self.answer,
                "n_steps": self.n_steps,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Problem:
        """The inverse of `to_json`.

        Raises:
            ValueError: the line is no JSON object or lacks one of the fields.
        """
        try:
            fields = json.loads(line)
            return cls(fields["id"], fields["question"], tuple(fields["steps"]), fields["answer"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"line must be a JSON object with id, question, steps, answer; got {line!r}"
            ) from error


def generate(count: int, *, split: str, steps: tuple[int, int] = (2, 5), seed: int) -> list[Problem]:
    """Draws `count` different problems of one split.

    Args:
        count: how many problems, at least 0.
        split: "train" (90 % of all texts), "valid" (5 %) or "test" (5 %).
        steps: fewest and most operations, both included, within [1, 6]; each number is equally likely.
        seed: the same seed gives the same problems in the same order, and the first k of a longer run.

    Returns:
        The problems, no question twice.

    Raises:
        ValueError: an argument is outside its range.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    problems: list[Problem] = []
    for problem in stream(split=split, steps=steps, seed=seed):
        if len(problems) == count:
            break
        problems.append(problem)
    return problems


def stream(*, split: str, steps: tuple[int, int] = (2, 5), seed: int) -> Iterator[Problem]:
    """Yields the problems of `generate` one by one, without end.

    Raises:
        ValueError: an argument is outside its range (on the first `next`).
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    fewest, most = steps
    if not 1 <= fewest <= most <= MAX_STEPS:
        raise ValueError(
            f"steps must be (fewest, most) with 1 <= fewest <= most <= {MAX_STEPS}, got {steps!r}"
        )
    rng = random.Random(seed)
    seen: set[bytes] = set()
    while True:
        question, chain, answer = draw(rng, rng.randint(fewest, most))
        digest = digest_of(question)
        if _split_of_digest(digest) != split or digest in seen:
            continue
        seen.add(digest)
        yield Problem(f"{split}-{digest.hex()[:12]}", question, tuple(chain), str(answer))


def split_of(question: str) -> str:
    """The split a question belongs to, decided by the BLAKE2b hash of its text alone."""
    return _split_of_digest(digest_of(question))


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Writes one JSON line per problem, replacing the file."""
    Path(path).write_text("".join(problem.to_json() + "\n" for problem in problems), encoding="utf-8")


def digest_of(question: str) -> bytes:
    """The 16 bytes that name a text and decide its split (BLAKE2b)."""
    return hashlib.blake2b(question.encode("utf-8"), digest_size=16).digest()


def _split_of_digest(digest: bytes) -> str:
    bucket = int.from_bytes(digest[:4], "little") % 20
    return {0: "valid", 1: "test"}.get(bucket, "train")


def draw(
    rng: random.Random, n_steps: int, distribution: Distribution = TRAINED
) -> tuple[str, list[str], int]:
    """One story of `n_steps` operations: its text, its chain and its answer.

    Args:
        rng: is drawn from.
        n_steps: operations, at least 1.
        distribution: names, wordings and numbers.
    """
    name, they, them = rng.choice(distribution.names)
    items = rng.choice(distribution.items)
    words = {"name": name, "items": items, "they": they, "They": they.capitalize(), "them": them}
    value = rng.randint(*distribution.first)
    sentences = [rng.choice(distribution.starts).format(n=value, **words)]
    chain: list[str] = []
    previous: tuple[str, int] | None = None
    for _ in range(n_steps):
        operation, operand = _draw_operation(rng, value, previous, distribution.addends)
        result = _apply(operation, value, operand)
        wordings = [text for text in distribution.sentences[operation] if f" {items} " not in text]
        sentences.append(rng.choice(wordings).format(n=operand, **words))
        chain.append(f"<<{value}{operation}{operand}={result}>>")
        value, previous = result, (operation, operand)
    sentences.append(rng.choice(distribution.questions).format(**words))
    return " ".join(sentences), chain, value


def _draw_operation(
    rng: random.Random, value: int, previous: tuple[str, int] | None, addends: tuple[int, int]
) -> tuple[str, int]:
    """Draws the kind of operation first and its operand second, among those that keep the value in range."""
    smallest, largest = addends
    operands = {
        "+": range(smallest, min(largest, MAX_VALUE - value) + 1),
        "-": range(smallest, min(largest, value - 1) + 1),
        "*": [m for m in _SMALL_FACTORS if value <= _MAX_SMALL_MULTIPLICAND]
        + [10] * (value * 10 <= MAX_VALUE),
        # A division that undoes the multiplication just before it would give the answer away.
        "/": [k for k in (*_SMALL_FACTORS, 10) if _divides(k, value) and previous != ("*", k)],
    }
    operation = rng.choice([kind for kind, allowed in operands.items() if allowed])
    return operation, rng.choice(operands[operation])


def _divides(divisor: int, value: int) -> bool:
    within = divisor == 10 or value <= _MAX_SMALL_DIVIDEND
    return within and value % divisor == 0 and value // divisor >= 2


def _apply(operation: str, value: int, operand: int) -> int:
    results = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}
    return results[operation]
