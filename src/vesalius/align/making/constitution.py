"""A constitution: principles by which a model criticises, corrects and compares its own answers.

Bai et al. 2022, arXiv:2212.08073: sections 3.1 (critique and revision) and 4.1 (comparison by a principle). It is a
TOML file, so that a person can read, change and publish what a model was brought up by; constitution.toml beside this
file is the one that is taken where none is named.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vesalius.core.errors import UserError
from vesalius.core.recipes import Section, load_recipe

DEFAULT = Path(__file__).parent / "constitution.toml"

Text = Annotated[str, Field(min_length=1)]


class Principle(Section):
    """critique  asks what is wrong with the last answer
    revision  asks for the answer without it
    choice    asks which of two answers is better, to be answered by A or B
    """

    name: Text
    critique: Text
    revision: Text
    choice: Text


class Constitution(Section):
    """principles  one is drawn for each revision and each comparison
    prompts     what the model is asked where the recipe names no prompts: they tempt it to break the principles
    """

    principles: Annotated[list[Principle], Field(min_length=1)]
    prompts: list[Text] = []


def load_constitution(path: str | None) -> Constitution:
    """The constitution in a TOML file, or the one that comes with the package. UserError as in `load_recipe`, and where
    two principles have one name."""
    place = DEFAULT if path is None else Path(path)
    if not place.is_file():
        raise UserError(f"no constitution at {place}: give a TOML file with [[principles]], or leave it out")
    constitution = load_recipe(place, Constitution)
    names = [principle.name for principle in constitution.principles]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{place}: two principles are called {twice!r}: name them apart, rows tell which one was used")
    return constitution
