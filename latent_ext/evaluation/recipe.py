"""Recipes of `latent-ext evaluate`: which model answers which problems in which ways."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from latent_ext.recipes import check_keys, read_mapping, shown
from latent_ext.search import SELECTORS, solve

_AT = (1, 4, 16, 64)
MAX_ITEMS = 1000  # datasets, arms, seeds or entries of `at`
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
# Arguments of `solve` that the evaluation itself gives.
_OWNED = (
    "model", "questions", "reward", "decode", "seed", "engine", "weights", "rung", "max_answer_tokens", "keys",
    "return_thoughts", "return_search", "memory_bytes", "max_rows", "progress",
)  # fmt: skip
ARM_KEYWORDS = tuple(name for name in inspect.signature(solve).parameters if name not in _OWNED)


@dataclass(frozen=True)
class DatasetSpec:
    """Where the problems of one dataset come from: exactly one of shipped, file, hub and generate.

    Attributes:
        name: of the dataset in every table.
        shipped: split in the package.
        file: .json or .jsonl, in the layout of LatentTTS, of GSM8K or our own (`latent_ext.evaluation.datasets`).
        hub: dataset id on the Hugging Face Hub; `config` and `split` belong to it.
        generate: keys shift, count and seed of the project's own generator.
        columns: {"question": ..., "answer": ...}, where a file or Hub dataset calls them otherwise.
        limit: only the first problems; None for all.
    """

    name: str
    shipped: str | None = None
    file: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "test"
    generate: dict[str, Any] | None = None
    columns: dict[str, str] | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Arm:
    """One way of sampling.

    Attributes:
        name: of the arm in every table.
        reward: None for the recipe's; "none" for none; else a name, directory or Hub id.
        settings: keywords of `latent_ext.solve` (`ARM_KEYWORDS`).
    """

    name: str
    reward: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_pool(self) -> bool:
        """Whether its trajectories are independent draws, so that every rule at every n can be read off them."""
        select = self.settings.get("select")
        return select is None or select in SELECTORS

    @property
    def n(self) -> int:
        """Trajectories per question of a pool."""
        return int(self.settings.get("n", inspect.signature(solve).parameters["n"].default or 64))

    @property
    def is_greedy(self) -> bool:
        """One noise-free trajectory and its most likely answer."""
        noise_free = self.settings.get("sampler") == "none" and not self.settings.get("temperature")
        return self.is_pool and noise_free and self.n == 1


@dataclass(frozen=True)
class EvaluationRecipe:
    """Everything that a run is asked for.

    Attributes:
        model: "shipped", a directory, a weight file or a Hub id.
        reward: what `latent_ext.solve` takes as a text, for example "shipped" or "deviation"; None for none. Default:
            shipped, for the shipped model.
        datasets, arms: at least one each, with different names.
        seeds: run seeds; every arm draws one pool per seed and question.
        at: numbers of trajectories at which the rules are compared; those above an arm's n are left out for it. Some arm
            must reach each that is given.
        checker: of `latent_ext.evaluation.checkers`.
        engine, weights, max_answer_tokens: see `latent_ext.solve`.
        family, latent_length, switches, base, device: see `latent_ext.load`.
        reward_positions: "real" or "published", see `latent_ext.load_reward`.
    """

    datasets: tuple[DatasetSpec, ...]
    arms: tuple[Arm, ...]
    model: str = "shipped"
    reward: str | None = None
    seeds: tuple[int, ...] = (0,)
    at: tuple[int, ...] = _AT
    checker: str = "number"
    engine: str = "auto"
    weights: str | None = None
    max_answer_tokens: int = 64
    family: str | None = None
    latent_length: int | None = None
    switches: dict[str, str] | None = None
    base: str | None = None
    device: str = "cpu"
    reward_positions: str = "real"

    def reward_of(self, arm: Arm) -> str | None:
        """Name of the reward that scores an arm; None for none."""
        name = self.reward if arm.reward is None else arm.reward
        return None if name in (None, "none") else name

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the form that `read_recipe` takes; what is not set is left out."""
        listed = {name: value for name, value in asdict(self).items() if value is not None}
        listed["datasets"] = [
            {
                k: v
                for k, v in asdict(spec).items()
                if v is not None and not (k == "split" and spec.hub is None)
            }
            for spec in self.datasets
        ]
        listed["arms"] = [
            {"name": arm.name, **arm.settings, **({} if arm.reward is None else {"reward": arm.reward})}
            for arm in self.arms
        ]
        # Of the default no arm need reach the largest, of what is given one must.
        if listed.pop("at") != _AT:
            listed["at"] = list(self.at)
        # No reward is said, since leaving it out means the shipped one.
        return listed | {"reward": self.reward, "seeds": list(self.seeds)}

    def to_yaml(self) -> str:
        """Canonical YAML: one text per recipe, whatever its file looked like."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=True, allow_unicode=True, width=1000))


def read_recipe(
    path: str | Path, replaced: Sequence[str] = (), *, limit: int | None = None
) -> EvaluationRecipe:
    """The recipe in a YAML file.

    Args:
        path: the file.
        replaced: "key=value" texts, see `latent_ext.recipes.read_mapping`.
        limit: only so many problems of every dataset.

    Raises:
        ValueError: naming the key at fault, what it holds and what is allowed.
    """
    return as_recipe(read_mapping(path, replaced), limit=limit)


def as_recipe(found: dict[str, Any], *, limit: int | None = None) -> EvaluationRecipe:
    """The recipe in a parsed mapping; arguments and errors as `read_recipe`."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; at least 1 problem is needed")
    check_keys(found, [known.name for known in fields(EvaluationRecipe)], "recipe")
    given = {key: value for key, value in found.items() if value is not None}
    for key in ("datasets", "arms"):
        if key not in given:
            raise ValueError(f"recipe: the key '{key}' is missing; a list of {key} is needed")
    given["datasets"] = tuple(
        _dataset(item, f"datasets, item {place}", limit)
        for place, item in enumerate(_items(given, "datasets"), start=1)
    )
    given["arms"] = tuple(
        _arm(item, f"arms, item {place}") for place, item in enumerate(_items(given, "arms"), start=1)
    )
    for key in ("datasets", "arms"):
        names = [item.name for item in given[key]]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ValueError(f"{key}: the name {name!r} stands twice; names must differ")
    if "seeds" in given:
        given["seeds"] = _whole_numbers(given, "seeds", -(1 << 63), (1 << 64) - 1)
    if "at" in given:
        given["at"] = tuple(sorted(_whole_numbers(given, "at", 1, 1 << 20)))
        _check_reached(given["at"], given["arms"])
    for key in (
        "model",
        "reward",
        "checker",
        "engine",
        "weights",
        "family",
        "base",
        "device",
        "reward_positions",
    ):
        if key in given and not _is_text(given[key]):
            raise ValueError(f"{key}: got {shown(given[key])}; a text is needed")
    # No thoughts at all is a model that writes its chain out.
    for key, least in (("max_answer_tokens", 1), ("latent_length", 0)):
        if key in given and not (_is_whole(given[key]) and least <= given[key] <= 1 << 31):
            raise ValueError(f"{key}: got {shown(given[key])}; a whole number >= {least} is needed")
    if "switches" in given:
        given["switches"] = _texts(given["switches"], "switches")
    if "reward" not in found and given.get("model", "shipped") == "shipped":
        given["reward"] = "shipped"
    return EvaluationRecipe(**given)


def _check_reached(at: Sequence[int], arms: Sequence[Arm]) -> None:
    """Refuses numbers of trajectories of which no arm draws as many: nothing could be said at them."""
    largest = max((arm.n for arm in arms if arm.is_pool), default=0)
    beyond = [number for number in at if number > largest]
    if beyond and largest:
        raise ValueError(f"at: got {beyond[0]}; the largest n of an arm is {largest}")
    if beyond:
        raise ValueError(f"at: got {beyond[0]}; all arms search, and none draws trajectories to choose among")


def _dataset(item: object, where: str, limit: int | None) -> DatasetSpec:
    spec = _named(item, where, [known.name for known in fields(DatasetSpec)])
    where = f"dataset {spec['name']}"
    for key in ("shipped", "file", "hub", "config", "split"):
        if key in spec and not _is_text(spec[key]):
            raise ValueError(f"{where}: {key}: got {shown(spec[key])}; a text is needed")
    sources = [key for key in ("shipped", "file", "hub", "generate") if key in spec]
    if len(sources) != 1:
        raise ValueError(
            f"{where}: got {' and '.join(sources) or 'no source'}; one of shipped, file, hub and generate is needed"
        )
    for key in ("config", "split"):
        if key in spec and sources != ["hub"]:
            raise ValueError(f"{where}: {key}: belongs to hub, not to {sources[0]}")
    if "limit" in spec:
        _at_least_one(spec["limit"], f"{where}: limit")
    if "columns" in spec:
        spec["columns"] = _texts(spec["columns"], f"{where}: columns")
        check_keys(spec["columns"], ("question", "answer", "id"), f"{where}: columns")
    if "generate" in spec:
        spec["generate"] = _generated(spec["generate"], f"{where}: generate")
    if limit is not None:
        spec["limit"] = min(limit, spec.get("limit", limit))
    return DatasetSpec(**spec)


def _generated(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: got {shown(value)}; keys shift, count and seed are needed")
    check_keys(value, ("shift", "count", "seed"), where)
    made = {"shift": "none", "count": 500, "seed": 0} | value
    if not _is_text(made["shift"]):
        raise ValueError(f"{where}: shift: got {shown(made['shift'])}; a text is needed")
    _at_least_one(made["count"], f"{where}: count")
    if not _is_whole(made["seed"]) or abs(made["seed"]) >= 1 << 63:
        raise ValueError(f"{where}: seed: got {shown(made['seed'])}; a whole number of 63 bits is needed")
    return made


def _arm(item: object, where: str) -> Arm:
    settings = _named(item, where, ("name", "reward", *ARM_KEYWORDS))
    name, reward = settings.pop("name"), settings.pop("reward", None)
    for key, value in (*settings.items(), ("reward", reward)):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"arm {name}: {key}: got {value}; a finite number is needed")
        if not (value is None or _is_text(value) or isinstance(value, (bool, int, float))):
            raise ValueError(f"arm {name}: {key}: got {shown(value)}; a text or a number is needed")
    for key in ("sampler", "select", "scope"):
        if key in settings and not _is_text(settings[key]):
            raise ValueError(f"arm {name}: {key}: got {shown(settings[key])}; a text is needed")
    for key in ("n", "beams", "candidates"):
        if key in settings:
            _at_least_one(settings[key], f"arm {name}: {key}")
    if reward is not None and not _is_text(reward):
        raise ValueError(f"arm {name}: reward: got {shown(reward)}; a text is needed ('none' for none)")
    return Arm(name, reward, settings)


def _named(item: object, where: str, allowed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: got {shown(item)}; keys and values are needed")
    check_keys(item, allowed, where)
    name = item.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{where}: name: got {shown(name)}; 1 to 64 letters, digits and _ . + - are needed, a letter or digit first"
        )
    return {key: value for key, value in item.items() if value is not None}


def _items(given: dict[str, Any], key: str) -> list[Any]:
    value = given[key]
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
        what = f"{len(value)} items" if isinstance(value, list) else shown(value)
        raise ValueError(f"{key}: got {what}; a list of 1 to {MAX_ITEMS} is needed")
    return value


def _whole_numbers(given: dict[str, Any], key: str, least: int, most: int) -> tuple[int, ...]:
    values = _items(given, key)
    for value in values:
        if not _is_whole(value) or not least <= value <= most:
            raise ValueError(f"{key}: got {shown(value)}; whole numbers from {least} to {most} are needed")
    if len(set(values)) < len(values):
        raise ValueError(f"{key}: a number stands twice; they must differ")
    return tuple(values)


def _texts(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise ValueError(f"{where}: got {shown(value)}; keys and values are needed")
    for key, text in value.items():
        if not _is_text(key) or not isinstance(text, (str, bool, int)):
            raise ValueError(f"{where}: got {shown(key)}: {shown(text)}; texts are needed")
    return {key: str(text).lower() if isinstance(text, bool) else str(text) for key, text in value.items()}


def _at_least_one(value: object, where: str) -> None:
    if not _is_whole(value) or not 1 <= value <= 1 << 31:
        raise ValueError(f"{where}: got {shown(value)}; a whole number >= 1 is needed")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> TypeGuard[str]:
    # A lone surrogate or a control character can neither be a name nor be written back.
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()
