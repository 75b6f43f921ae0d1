"""docs/training.md lists the keys of a recipe."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import yaml

import latent_ext
from latent_ext.training.recipe import Recipe

PAGE = Path(latent_ext.__file__).parents[1] / "docs" / "training.md"


def test_the_table_has_every_key_of_a_recipe_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert [name for name, _, _ in rows] == [field.name for field in fields(Recipe)]
    for (name, default, _), field in zip(rows, fields(Recipe), strict=True):
        if field.default is MISSING:
            assert default == "needed", name
        else:
            assert yaml.safe_load(default.strip("`")) == field.default, name
