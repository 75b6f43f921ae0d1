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
from dataclasses import dataclass
from pathlib import Path

MAX_VALUE = 1999
MAX_STEPS = 6
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Numbers:
    """Which operands a story may have; values stay in [1, `MAX_VALUE`] whatever they are.

    Attributes:
        start: least and greatest value that the story begins with.
        addend: least and greatest of what is added or taken away.
        factors: beside 10, of multiplications and divisions.
        most_multiplied, most_divided: greatest value that one of `factors` multiplies or divides.
    """

    start: tuple[int, int] = (2, 30)
    addend: tuple[int, int] = (1, 9)
    factors: tuple[int, ...] = (2, 3, 4, 5)
    most_multiplied: int = 30
    most_divided: int = 150


@dataclass(frozen=True)
class Wording:
    """The words of a story. Sentences have the fields name, items, n, they, They and them.

    Attributes:
        names: with the two pronouns of each.
        items: plural nouns.
        starts, questions: first and last sentence.
        sentences: of each operation.
    """

    names: tuple[tuple[str, str, str], ...]
    items: tuple[str, ...]
    starts: tuple[str, ...]
    questions: tuple[str, ...]
    sentences: Mapping[str, tuple[str, ...]]


WORDING = Wording(
    names=(
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
    ),
    items=("apples", "books", "coins", "eggs", "marbles", "pens", "shells", "stamps", "stones", "tickets"),
    starts=("{name} has {n} {items}.", "{name} starts with {n} {items}."),
    questions=(
        "How many {items} does {name} have now?",
        "How many {items} does {name} have in the end?",
    ),
    sentences={
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
    },
)
NUMBERS = Numbers()


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
        digest = text_hash(question)
        if _split_of_digest(digest) != split or digest in seen:
            continue
        seen.add(digest)
        yield Problem(f"{split}-{digest.hex()[:12]}", question, tuple(chain), str(answer))


def split_of(question: str) -> str:
    """The split a question belongs to, decided by the BLAKE2b hash of its text alone."""
    return _split_of_digest(text_hash(question))


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Writes one JSON line per problem, replacing the file."""
    Path(path).write_text("".join(problem.to_json() + "\n" for problem in problems), encoding="utf-8")


def text_hash(question: str) -> bytes:
    """16 bytes of BLAKE2b, from which a question has its split and its name."""
    return hashlib.blake2b(question.encode("utf-8"), digest_size=16).digest()


def _split_of_digest(digest: bytes) -> str:
    bucket = int.from_bytes(digest[:4], "little") % 20
    return {0: "valid", 1: "test"}.get(bucket, "train")


def draw(
    rng: random.Random, n_steps: int, *, wording: Wording = WORDING, numbers: Numbers = NUMBERS
) -> tuple[str, list[str], int]:
    """One story of `n_steps` operations: its text, its chain and its answer."""
    name, they, them = rng.choice(wording.names)
    items = rng.choice(wording.items)
    words = {"name": name, "items": items, "they": they, "They": they.capitalize(), "them": them}
    value = rng.randint(*numbers.start)
    sentences = [rng.choice(wording.starts).format(n=value, **words)]
    chain: list[str] = []
    previous: tuple[str, int] | None = None
    for _ in range(n_steps):
        operation, operand = _draw_operation(rng, value, previous, numbers)
        result = _apply(operation, value, operand)
        sentences.append(rng.choice(wording.sentences[operation]).format(n=operand, **words))
        chain.append(f"<<{value}{operation}{operand}={result}>>")
        value, previous = result, (operation, operand)
    sentences.append(rng.choice(wording.questions).format(**words))
    return " ".join(sentences), chain, value


def _draw_operation(
    rng: random.Random, value: int, previous: tuple[str, int] | None, numbers: Numbers
) -> tuple[str, int]:
    """Draws the kind of operation first and its operand second, among those that keep the value in range."""
    least, most = numbers.addend
    divided = (*numbers.factors, 10)
    operands = {
        "+": range(least, min(most, MAX_VALUE - value) + 1),
        "-": range(least, min(most, value - 1) + 1),
        "*": [m for m in numbers.factors if value <= numbers.most_multiplied]
        + [10] * (value * 10 <= MAX_VALUE),
        # A division that undoes the multiplication just before it would give the answer away.
        "/": [k for k in divided if _divides(k, value, numbers) and previous != ("*", k)],
    }
    operation = rng.choice([kind for kind, allowed in operands.items() if allowed])
    return operation, rng.choice(operands[operation])


def _divides(divisor: int, value: int, numbers: Numbers) -> bool:
    within = divisor == 10 or value <= numbers.most_divided
    return within and value % divisor == 0 and value // divisor >= 2


def _apply(operation: str, value: int, operand: int) -> int:
    results = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}
    return results[operation]
