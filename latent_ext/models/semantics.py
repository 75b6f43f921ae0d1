"""The switches: every place where published codes of one family behave differently, each stated once.

A layout gives the values of its authors' code, except where that code is plainly wrong: there the value that does
right is the default, and the published one is on the switch (docs/differences.md has the table).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints


@dataclass(frozen=True)
class Semantics:
    """How a model behaves; the values here are those of a family that says nothing.

    Attributes:
        stop: "fixed": every row has ``latent_length`` thoughts. Otherwise a row ends its latent phase by the
            separator, which is looked for after every pass: "argmax" takes the likeliest token (LatentTTS CoLaR),
            "sampled" draws one at temperature 1 (original CoLaR; argmax where the sampler is "none").
        least_thoughts: thoughts before the separator is first looked for, at least 0 (original CoLaR: 1).
        cap: what follows ``latent_length`` thoughts of a row that did not stop: "separator" feeds the separator
            (original CoLaR); "reenter" decodes one ordinary token and then thinks again, and counts the
            separators in the question as well (LatentTTS).
        dropout_in_answer: dropout acts while the answer is read, too (LatentTTS CoLaR).
        speed: the number in CoLaR's prompt (LatentTTS 2, original 5).
        marker: CoLaR's answer follows the "last" (LatentTTS) or the "first" (original) ``Answer:``.
        question: "as_given" (LatentTTS), or "squeezed": blanks at both ends cut, two blanks made one in a single
            pass (original CODI).
        end_token: "allowed" among answer tokens (LatentTTS), or "excluded" (original CODI).
        pads: "masked": a question is read as if it were alone. "visible": questions that are run together are padded
            on the left to the longest, positions count the pads, and all passes after the prompt's attend to them
            (original CODI); needs a sampler without dropout.
        lora: "merged" into the weights in fp32, or "unmerged": adapters stay beside them (original CODI; its dtype
            is bfloat16).
        lora_alpha: LoRA's alpha, positive; the adapters' scale is alpha / rank.
    """

    stop: Literal["fixed", "argmax", "sampled"] = "fixed"
    least_thoughts: int = 0
    cap: Literal["separator", "reenter"] = "separator"
    dropout_in_answer: bool = False
    speed: int = 2
    marker: Literal["last", "first"] = "last"
    question: Literal["as_given", "squeezed"] = "as_given"
    end_token: Literal["allowed", "excluded"] = "allowed"
    pads: Literal["masked", "visible"] = "masked"
    lora: Literal["merged", "unmerged"] = "merged"
    lora_alpha: int = 32

    def switched(self, switches: Mapping[str, Any], family: str) -> Semantics:
        """A copy with some values changed; values may be texts, as a command line gives them.

        Raises:
            ValueError: for a switch that `family` does not have, or a value that is not allowed.
        """
        own = SWITCHES.get(family, ())
        kinds = get_type_hints(Semantics)
        changes = {}
        for name, value in switches.items():
            if name not in own:
                allowed = ", ".join(own) or "none"
                raise ValueError(f"switches: {name!r} is none of family {family!r}; allowed are {allowed}")
            changes[name] = _checked(name, value, kinds[name])
        return replace(self, **changes)

    def differences(self) -> dict[str, Any]:
        """The values that are not the defaults: what a result records."""
        plain = asdict(Semantics())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}


SWITCHES: dict[str, tuple[str, ...]] = {
    "coconut": (),
    "codi": ("question", "end_token", "pads", "lora", "lora_alpha"),
    "colar": (
        "stop",
        "least_thoughts",
        "cap",
        "dropout_in_answer",
        "speed",
        "marker",
        "lora",
        "lora_alpha",
    ),
}
"""The switches of each family."""

_LEAST = {"least_thoughts": 0, "speed": 0, "lora_alpha": 1}
# A fixed number of thoughts is no option of a family whose rows stop by themselves.
_NOT_OFFERED = ("fixed",)


def _checked(name: str, value: Any, kind: Any) -> Any:
    if kind is bool:
        allowed: Any = {True: True, False: False, "true": True, "false": False}
        if isinstance(value, (bool, str)) and value in allowed:
            return allowed[value]
        needed = "true or false"
    elif kind is int:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, int) and not isinstance(number, bool) and number >= _LEAST[name]:
            return number
        needed = f"a whole number >= {_LEAST[name]}"
    else:
        options = [option for option in get_args(kind) if option not in _NOT_OFFERED]
        if value in options:
            return value
        needed = " or ".join(map(repr, options))
    raise ValueError(f"switches: {name}: got {value!r}; {needed} is needed")


def semantics_of(family: object) -> Semantics:
    """The family's own ``semantics``, or the plain ones where it has none."""
    own = getattr(family, "semantics", None)
    return own if isinstance(own, Semantics) else Semantics()


assert {name for names in SWITCHES.values() for name in names} == {field.name for field in fields(Semantics)}
