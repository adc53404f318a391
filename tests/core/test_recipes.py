"""Recipes: TOML, overrides, and errors that name the nearest key."""

import pytest

from vesalius.core.errors import UserError
from vesalius.core.recipes import Section, build_recipe, dump_recipe, load_recipe


class Training(Section):
    steps: int = 10
    learning_rate: float = 1e-3
    names: list[str] = []


class Recipe(Section):
    train: Training = Training()
    extra: Training | None = None


def build(*overrides, **values):
    return build_recipe(values, Recipe, overrides)


def test_values_and_defaults():
    recipe = build(train={"steps": 5})
    assert (recipe.train.steps, recipe.train.learning_rate, recipe.extra) == (5, 1e-3, None)


def test_what_is_written_is_read_back(tmp_path):
    recipe = build("extra.names=['a \"b\"', 'c']", train={"learning_rate": 3e-4})
    (tmp_path / "r.toml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "r.toml", Recipe) == recipe


def test_overrides_are_toml_or_else_plain_text():
    recipe = build("train.steps=7", "train.names=['x']", "train.learning_rate=1e-5")
    assert recipe.train == Training(steps=7, names=["x"], learning_rate=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.lerning_rate=1"], "unknown key 'train.lerning_rate', did you mean 'learning_rate'"),
        (["trian.steps=1"], "unknown key 'trian', did you mean 'train'"),
        (["extra.stpes=1"], "unknown key 'extra.stpes', did you mean 'steps'"),
        (["train.steps=many"], "train.steps = 'many': input should be a valid integer"),
        (["train.steps"], "not of the form section.key=value"),
        (["train.steps.more=1"], "'steps' is a value, not a section"),
    ],
)
def test_wrong_overrides_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        build(*overrides, train={"steps": 5})
    assert "\n" not in str(error.value)


def test_a_missing_recipe_and_broken_toml(tmp_path):
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml", Recipe)
    (tmp_path / "bad.toml").write_text("[train\n")
    with pytest.raises(UserError, match=r"bad\.toml is not valid TOML"):
        load_recipe(tmp_path / "bad.toml", Recipe)


def test_sections_cannot_be_changed_after_they_are_read():
    with pytest.raises(ValueError, match="frozen"):
        build().train.steps = 3
