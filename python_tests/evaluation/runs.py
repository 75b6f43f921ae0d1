"""Small runs of the shipped model: recipes, and what a run leaves that must not depend on how it was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latent_ext.evaluation.evaluate import Evaluated, evaluate
from latent_ext.evaluation.recipe import EvaluationRecipe, as_recipe

ARMS = (
    {"name": "greedy", "sampler": "none", "n": 1, "reward": "none"},
    {"name": "noise", "sampler": "noise:0.6:relative", "n": 5},
    {"name": "token", "sampler": "none", "temperature": 1.0, "n": 3, "reward": "none"},
    {"name": "beam", "sampler": "noise:0.6:relative", "select": "beam", "beams": 2, "candidates": 2},
)


def plain_recipe(**changes: Any) -> dict[str, Any]:
    """A recipe's mapping: 7 shipped problems, four arms, two seeds."""
    return {
        "datasets": [{"name": "five", "shipped": "test_5", "limit": 7}],
        "arms": [dict(arm) for arm in ARMS],
        "seeds": [0, 3],
        "at": [1, 2, 4],
        "engine": "native",
        "max_answer_tokens": 8,
    } | changes


def small_recipe(**changes: Any) -> EvaluationRecipe:
    return as_recipe(plain_recipe(**changes))


def run(out: Path, recipe: EvaluationRecipe | None = None, **settings: Any) -> Evaluated:
    return evaluate(recipe or small_recipe(), out, **{"batch": 3} | settings)


def results(out: Path) -> dict[str, bytes]:
    """Bytes of all files but the diary of attempts."""
    names = ("ledger.jsonl", "recipe.yaml", "settings.json", "summary.json")
    return {name: (out / name).read_bytes() for name in names}
