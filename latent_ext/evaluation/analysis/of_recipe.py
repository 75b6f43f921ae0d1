"""An analysis of what a recipe of `latent-ext evaluate` samples: its model, one of its datasets, one of its arms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latent_ext.durable import write_text
from latent_ext.evaluation.analysis.analyse import AnalysisPlan, Report, analyse
from latent_ext.evaluation.checkers import checker
from latent_ext.evaluation.datasets import load_dataset
from latent_ext.evaluation.recipe import Arm, EvaluationRecipe, read_recipe
from latent_ext.evaluation.run_directory import RECIPE
from latent_ext.models import load
from latent_ext.samplers import as_sampler

ANALYSIS = "analysis.json"
_NOT_SAMPLED_WITH = ("n", "sampler", "select", "beams", "candidates")
_DEFAULT_SAMPLER = "dropout:0.2"  # of `latent_ext.solve`


def recipe_of(source: str | Path, replaced: Sequence[str] = ()) -> tuple[EvaluationRecipe, Path | None]:
    """The recipe in a YAML file or a run's directory, and that directory.

    Raises:
        ValueError: naming what cannot be read.
    """
    path = Path(source)
    if not path.exists():
        raise ValueError(
            f"source: {path} does not exist; a recipe (YAML) or the directory of a run of latent-ext evaluate is needed"
        )
    if path.is_dir():
        if not (path / RECIPE).exists():
            raise ValueError(
                f"source: {path} holds no {RECIPE}; a recipe or the directory of a run is needed"
            )
        return read_recipe(path / RECIPE, replaced), path
    return read_recipe(path, replaced), None


def analyse_recipe(
    recipe: EvaluationRecipe,
    plan: AnalysisPlan | None = None,
    *,
    dataset: str | None = None,
    arm: str | None = None,
    limit: int | None = 50,
    report: Report | None = None,
) -> dict[str, Any]:
    """`analyse` with the model, problems and sampler of a recipe.

    Args:
        recipe: as `read_recipe` gives it.
        plan: what is measured; its sampler is that of the arm.
        dataset: name of a dataset. Default: the first.
        arm: name of an arm that samples thoughts. Default: the first that does.
        limit: only so many problems; None for all.
        report: see `analyse`.

    Returns:
        The object of `analyse`; "about" also names dataset and arm.

    Raises:
        ValueError: naming the argument or key at fault, before the model runs.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; at least 1 problem is needed")
    names = [spec.name for spec in recipe.datasets]
    if dataset is not None and dataset not in names:
        raise ValueError(f"dataset: got {dataset!r}; allowed are {', '.join(names)}")
    spec = recipe.datasets[0 if dataset is None else names.index(dataset)]
    chosen = _arm(recipe, arm)
    plan = replace(plan if plan is not None else AnalysisPlan(), sampler=_sampler(chosen))
    settings = {key: value for key, value in chosen.settings.items() if key not in _NOT_SAMPLED_WITH}
    problems = load_dataset(spec, checker(recipe.checker)).problems[:limit]
    model = load(
        recipe.model,
        family=recipe.family,
        latent_length=recipe.latent_length,
        switches=recipe.switches,
        base=recipe.base,
        device=recipe.device,
    )
    found = analyse(
        model,
        problems,
        plan,
        report=report,
        engine=recipe.engine,
        weights=recipe.weights,
        max_answer_tokens=recipe.max_answer_tokens,
        **settings,
    )
    found["about"] |= {"dataset": spec.name, "arm": chosen.name}
    return found


def write_analysis(directory: str | Path, found: dict[str, Any]) -> Path:
    """Writes analysis.json, at once or not at all.

    Raises:
        ValueError: if the directory cannot be written.
    """
    path = Path(directory) / ANALYSIS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found, allow_nan=False) + "\n")
    except OSError as error:
        raise ValueError(f"out: {path} cannot be written: {error.strerror or error}") from None
    return path


def _arm(recipe: EvaluationRecipe, name: str | None) -> Arm:
    sampling = [arm for arm in recipe.arms if as_sampler(_sampler(arm)).to_dict()["sampler"] != "none"]
    names = [arm.name for arm in sampling]
    if not names:
        raise ValueError("arms: none samples thoughts (every sampler is none); there is nothing to compare")
    if name is not None and name not in names:
        raise ValueError(f"arm: got {name!r}; those that sample thoughts are {', '.join(names)}")
    return sampling[0 if name is None else names.index(name)]


def _sampler(arm: Arm) -> str:
    return str(arm.settings.get("sampler", _DEFAULT_SAMPLER))
