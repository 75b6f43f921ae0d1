"""Recipes of evaluations: read, changed from the command line, written back, and refused by key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from latent_ext.evaluation.recipe import EvaluationRecipe, as_recipe, read_recipe
from python_tests.evaluation.runs import plain_recipe, small_recipe

SHIPPED = Path(__file__).parents[2] / "examples" / "evaluate" / "shipped.yaml"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_canonical_text_gives_the_same_recipe_and_text(tmp_path: Path) -> None:
    for recipe in (small_recipe(), read_recipe(SHIPPED), small_recipe(reward=None)):
        text = recipe.to_yaml()
        again = read_recipe(written(tmp_path, text))
        assert again.to_yaml() == text
        assert again == recipe


def test_the_example_asks_for_500_problems_64_trajectories_and_3_seeds() -> None:
    recipe = read_recipe(SHIPPED)
    assert recipe.datasets[0].limit == 500
    assert (recipe.arms[1].n, recipe.seeds, recipe.at) == (64, (0, 1, 2), (1, 4, 16, 64))
    assert [arm.is_greedy for arm in recipe.arms] == [True, False, False, False]
    assert [arm.is_pool for arm in recipe.arms] == [True, True, True, False]


def test_set_and_limit_change_what_the_file_says() -> None:
    changed = ["arms.noise.n=16", "arms.0.sampler=dropout:0.1", "seeds=[5]", "datasets.test_5.limit=40"]
    recipe = read_recipe(SHIPPED, changed, limit=30)
    assert recipe.arms[1].n == 16
    assert recipe.arms[0].settings["sampler"] == "dropout:0.1"
    assert recipe.seeds == (5,)
    assert recipe.datasets[0].limit == 30


def test_no_reward_is_shipped_with_the_shipped_model_alone() -> None:
    assert small_recipe().reward == "shipped"
    assert small_recipe(reward=None).reward is None
    assert small_recipe(model="elsewhere").reward is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": "x"}, r"recipe: got the key 'rewards' \(did you mean 'reward'\?\)"),
        ({3: 4}, "recipe: got the key 3; allowed are"),
        ({"datasets": []}, "datasets: got 0 items"),
        ({"arms": "greedy"}, "arms: got 'greedy'; a list"),
        ({"arms": [{"name": "a", "sampler": "none"}] * 2}, "arms: the name 'a' stands twice"),
        ({"arms": [{"sampler": "none"}]}, "arms, item 1: name: got None"),
        ({"arms": [{"name": "../a"}]}, "arms, item 1: name: got '../a'"),
        ({"arms": [{"name": "a", "samplr": "none"}]}, r"arms, item 1: got the key 'samplr' \(did you mean 'sampler'\?\)"),
        ({"arms": [{"name": "a", "seed": 1}]}, "arms, item 1: got the key 'seed'"),
        ({"arms": [{"name": "a", "n": 0}]}, "arm a: n: got 0"),
        ({"arms": [{"name": "a", "n": True}]}, "arm a: n: got True"),
        ({"arms": [{"name": "a", "temperature": float("nan")}]}, "arm a: temperature: got nan"),
        ({"arms": [{"name": "a", "sampler": ["none"]}]}, "arm a: sampler: got a value of type list"),
        ({"datasets": [{"name": "a"}]}, "dataset a: got no source"),
        ({"datasets": [{"name": "a", "file": "x", "hub": "y"}]}, "dataset a: got file and hub"),
        ({"datasets": [{"name": "a", "file": "x", "split": "test"}]}, "dataset a: split: belongs to hub"),
        ({"datasets": [{"name": "a", "generate": {"cout": 3}}]}, r"generate: got the key 'cout' \(did you mean 'count'\?\)"),
        ({"datasets": [{"name": "a", "file": "x", "columns": {"q": "x"}}]}, "columns: got the key 'q'"),
        ({"datasets": [{"name": "a", "shipped": "test_5", "limit": -1}]}, "dataset a: limit: got -1"),
        ({"seeds": [0, 0]}, "seeds: a number stands twice"),
        ({"seeds": [1 << 64]}, "seeds: got"),
        ({"seeds": [10**5000]}, "seeds: got a whole number of 16610 bits"),
        ({"at": ["1"]}, "at: got '1'"),
        ({"at": [1, 64], "arms": [{"name": "a", "n": 4}, {"name": "b", "n": 16}]}, "at: got 64; the largest n .* is 16$"),
        ({"at": [4], "arms": [{"name": "a", "select": "beam"}]}, "at: got 4; all arms search"),
        ({"max_answer_tokens": 0}, "max_answer_tokens: got 0"),
        ({"model": 7}, "model: got 7; a text is needed"),
        ({"engine": "a\nb"}, "engine: got"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_hold_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_recipe(plain_recipe() | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the key 'datasets' is missing"),
        ("a: [", "is not YAML"),
        ("- a", "holds list"),
        ("seeds: [1]\nseeds: [2]", "the key 'seeds' stands twice"),
        ("? [a]\n: b", "is not YAML"),
        ("x: 2001-99-99", "is not YAML"),
        ("x: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("x: " + "[" * 1000, "is not YAML"),
        ("arms: &a [*a]\ndatasets: [1]", "is not YAML"),
        ("#" * (1 << 20) + "\n", "is longer than"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read_recipe(written(tmp_path, text))
    assert len(str(refused.value)) < 600


def test_a_thousand_million_aliases_cost_nothing(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 9))
    for text in (bomb, bomb + "seeds: *a8", bomb.replace("a8:", "arms:") + "datasets: [1]"):
        with pytest.raises(ValueError, match=r"recipe|seeds|arms"):
            read_recipe(written(tmp_path, text))


def test_numbers_of_trajectories_that_are_not_given_may_be_beyond_every_arm() -> None:
    plain = plain_recipe(arms=[{"name": "a", "n": 4}])
    del plain["at"]
    recipe = as_recipe(plain)
    assert max(recipe.at) > 4
    assert as_recipe(recipe.to_dict()) == recipe
    assert as_recipe(plain | {"at": [2, 4]}).to_dict()["at"] == [2, 4]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("arms.nose.n=1", "the list has no item 'nose' (did you mean 'noise'?)"),
        ("arm.noise.n=1", "the recipe has no 'arm' there (did you mean 'arms'?)"),
        ("sedes=[1]", "got the key 'sedes' (did you mean 'seeds'?)"),
    ],
)
def test_a_misspelt_set_says_what_is_nearest(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        read_recipe(SHIPPED, [text])


@pytest.mark.parametrize(
    "text", ["n", "=1", "arms.absent.n=1", "arms.9.n=1", "arms.noise.n.x=1", "seeds=[", "no.such=1"]
)
def test_a_set_that_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="set: got"):
        read_recipe(SHIPPED, [text])


def test_yaml_written_by_hand_and_by_us_agree(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, yaml.safe_dump(plain_recipe())))
    assert isinstance(recipe, EvaluationRecipe)
    assert recipe == small_recipe()


@pytest.mark.parametrize("length", [-1, False, 0.0, "6"])
def test_a_number_of_thoughts_may_be_none_at_all_but_nothing_that_is_no_number(length: object) -> None:
    asked = {"datasets": [{"name": "a", "shipped": "test_5"}], "arms": [{"name": "t", "sampler": "none"}]}
    assert as_recipe(asked | {"latent_length": 0}).latent_length == 0
    with pytest.raises(ValueError, match=r"^latent_length: got .*; a whole number >= 0 is needed"):
        as_recipe(asked | {"latent_length": length})
