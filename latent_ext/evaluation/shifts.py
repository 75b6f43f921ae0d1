"""Controlled shifts of the shipped model's task: one thing at a time differs from what it was trained on.

All problems are of the "test" split of `latent_ext.evaluation.arithmetic`, which the hash of a text decides, so none is a
training problem. All but the longer ones have five steps.

- "none": as in training.
- "longer", "longest": seven and eight steps; training had one to six.
- "larger": starts from 31 to 99 and addends from 10 to 99 (training: up to 30 and 9). Values up to 99 are multiplied and up
  to 495 divided by a small factor (training: 30 and 150). Factors are the same, and values stay within 1 to 1999, so that
  answers do not leave the range of training.
- "wording": sentences that training never had, of the same meaning.
- "items": boxes and piles are counted; in training they only held what was counted.
- "names": the ten names with the pronouns that training never gave them.

The vocabulary of the shipped tokenizer is closed, and every question of every shift is read by it. New names are no shift
here: of words that can open a text it has the ten names of training alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from latent_ext.evaluation.arithmetic import (
    NUMBERS,
    WORDING,
    Numbers,
    Problem,
    Wording,
    draw,
    split_of,
    text_hash,
)

STEPS = 5

_SENTENCES = {
    "+": (
        "Soon {they} finds {n} more.",
        "{name} buys {n} more {items}.",
        "{They} has {n} more now.",
    ),
    "-": (
        "Soon {they} sells {n}.",
        "{name} loses {n} {items}.",
        "A friend borrows {n} and keeps them.",
    ),
    "*": (
        "{They} has {n} times as many now.",
        "Soon the number grows to {n} times its size.",
    ),
    "/": (
        "{They} splits the {items} into {n} piles and keeps one.",
        "Soon {they} packs the {items} into {n} boxes and keeps one.",
    ),
}
_PRONOUNS = {"she": ("he", "him"), "he": ("she", "her")}


@dataclass(frozen=True)
class Shift:
    """How stories are drawn.

    Attributes:
        what: one clause on what differs from training.
        steps: operations of every story.
        wordings: one of which a story is written in.
        numbers: its operands.
    """

    what: str
    steps: int = STEPS
    wordings: tuple[Wording, ...] = (WORDING,)
    numbers: Numbers = NUMBERS


def _held_by(items: str, holder: str) -> Wording:
    """Counts `items`, which are divided into what `holder` names alone: boxes are not packed into boxes."""
    divisions = tuple(text for text in WORDING.sentences["/"] if holder in text)
    return replace(WORDING, items=(items,), sentences={**WORDING.sentences, "/": divisions})


SHIFTS: dict[str, Shift] = {
    "none": Shift("as in training"),
    "longer": Shift("seven steps", steps=7),
    "longest": Shift("eight steps", steps=8),
    "larger": Shift(
        "larger numbers",
        numbers=Numbers(start=(31, 99), addend=(10, 99), most_multiplied=99, most_divided=495),
    ),
    "wording": Shift(
        "new sentences",
        wordings=(
            replace(
                WORDING,
                starts=("{name} buys {n} {items}.", "{name} finds {n} {items}."),
                questions=("How many does {they} have now?", "How many {items} does {they} have in the end?"),
                sentences=_SENTENCES,
            ),
        ),
    ),
    "items": Shift(
        "boxes and piles are counted", wordings=(_held_by("boxes", "piles"), _held_by("piles", "boxes"))
    ),
    "names": Shift(
        "names with the other pronouns",
        wordings=(
            replace(WORDING, names=tuple((name, *_PRONOUNS[they]) for name, they, _ in WORDING.names)),
        ),
    ),
}
"""What can be shifted, by name."""


def problems(shift: str, *, count: int, seed: int = 0) -> list[Problem]:
    """Different problems of one shift.

    Args:
        shift: one of `SHIFTS`.
        count: how many, at least 1.
        seed: the same seed gives the same problems in the same order, and the first k of a longer run.

    Returns:
        Problems named ``"<shift>-<12 hex digits of the text's hash>"``, no question twice.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    >>> problems("longer", count=1)[0].n_steps
    7
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift: got {shift!r}; allowed are {', '.join(SHIFTS)}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"count: got {count!r}; a whole number >= 1 is needed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"seed: got {seed!r}; a whole number is needed")
    drawn = _stream(shift, seed)
    return [next(drawn) for _ in range(count)]


def _stream(name: str, seed: int) -> Iterator[Problem]:
    shift, rng, seen = SHIFTS[name], random.Random(seed), set()
    while True:
        wording = shift.wordings[0] if len(shift.wordings) == 1 else rng.choice(shift.wordings)
        question, chain, answer = draw(rng, shift.steps, wording=wording, numbers=shift.numbers)
        digest = text_hash(question)
        if split_of(question) != "test" or digest in seen:
            continue
        seen.add(digest)
        yield Problem(f"{name}-{digest.hex()[:12]}", question, tuple(chain), str(answer))
