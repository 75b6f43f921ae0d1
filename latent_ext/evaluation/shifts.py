"""Problems outside the distribution that the shipped model is trained on, one change at a time.

Shift "none" is what the others are compared with: five steps, within the trained distribution (one to six).
Every other shift changes one thing of it, and shows in each of its problems:

    longer     seven steps, one more than was ever trained, and one more than there are thoughts
    longest    eight steps
    operands   10 to 29 is added or taken away (trained: 1 to 9)
    starts     the first value is 31 to 99 (trained: 2 to 30)
    templates  every sentence has a wording that was never trained
    items      what is counted is called by another noun of the vocabulary (boxes, piles)
    pronouns   a trained "she" is called "he", and the other way round

All words are of the shipped tokenizer's closed vocabulary, which refuses others. Two shifts cannot be built in it: new
names (all the vocabulary's are trained; renaming therefore changes items and pronouns) and answers beyond 1999, which
would no longer be the same task of at most four digits with a known range of values.

Problems have texts of the test split, which no training text has, whatever its distribution: splits are a hash of the
text (`latent_ext.evaluation.arithmetic`). What follows from a change moves with it: larger first values leave fewer
multiplications in range.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from latent_ext.evaluation.arithmetic import TRAINED, Distribution, Problem, digest_of, draw, split_of

_PRONOUN = re.compile(r"\b([Ss]he|[Hh]e|her|him)\b")


def _always(question: str, chain: list[str]) -> bool:
    return True


def _adds(question: str, chain: list[str]) -> bool:
    return any("+" in step or "-" in step for step in chain)


def _has_pronoun(question: str, chain: list[str]) -> bool:
    return _PRONOUN.search(question) is not None


@dataclass(frozen=True)
class Shift:
    """One change.

    Attributes:
        steps: operations of every problem.
        distribution: what the stories are drawn from.
        shows: whether a story (question, chain) has anything that the change changes; others are not taken.
    """

    steps: int = 5
    distribution: Distribution = TRAINED
    shows: Callable[[str, list[str]], bool] = _always


_NEW_WORDINGS = replace(
    TRAINED,
    starts=("{name} finds {n} {items}.", "{name} buys {n} {items}."),
    questions=("How many {items} does {they} have now?", "How many does {name} have in the end?"),
    sentences={
        "+": (
            "Soon {they} has {n} more.",
            "{They} finds {n} more and keeps them.",
            "{They} wins {n} more {items}.",
            "A friend gives {them} {n} more {items}.",
        ),
        "-": (
            "{They} loses {n} {items}.",
            "{They} gives away {n} {items}.",
            "{They} sells {n} {items}.",
            "A friend borrows {n} and keeps them.",
        ),
        "*": (
            "Soon {they} has {n} times the number.",
            "Soon the number grows to {n} times its size.",
            "The number grows to {n} times as many.",
        ),
        "/": (
            "{They} splits the {items} into {n} equal piles and keeps one.",
            "{They} packs the {items} into {n} equal boxes and keeps one.",
            "{They} packs them into {n} equal piles and keeps one.",
        ),
    },
)
_OTHER = {"she": ("he", "him"), "he": ("she", "her")}

SHIFTS: dict[str, Shift] = {
    "none": Shift(),
    "longer": Shift(steps=7),
    "longest": Shift(steps=8),
    "operands": Shift(distribution=replace(TRAINED, addends=(10, 29)), shows=_adds),
    "starts": Shift(distribution=replace(TRAINED, first=(31, 99))),
    "templates": Shift(distribution=_NEW_WORDINGS),
    "items": Shift(distribution=replace(TRAINED, items=("boxes", "piles"))),
    "pronouns": Shift(
        distribution=replace(TRAINED, names=tuple((name, *_OTHER[they]) for name, they, _ in TRAINED.names)),
        shows=_has_pronoun,
    ),
}


def problems(shift: str, *, count: int, seed: int) -> list[Problem]:
    """Problems of one shift, no question twice.

    Args:
        shift: a key of `SHIFTS`.
        count: how many, at least 1.
        seed: the same seed gives the same problems in the same order, and the first k of a longer list.

    Raises:
        ValueError: for an unknown shift or a count below 1.
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift: got {shift!r}; allowed are {', '.join(SHIFTS)}")
    if count < 1:
        raise ValueError(f"count: got {count}; at least 1 problem is needed")
    chosen = SHIFTS[shift]
    rng = random.Random(seed)
    found: dict[bytes, Problem] = {}
    while len(found) < count:
        question, chain, answer = draw(rng, chosen.steps, chosen.distribution)
        digest = digest_of(question)
        if split_of(question) == "test" and digest not in found and chosen.shows(question, chain):
            found[digest] = Problem(f"{shift}-{digest.hex()[:12]}", question, tuple(chain), str(answer))
    return list(found.values())
