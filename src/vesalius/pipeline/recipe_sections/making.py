"""Stages that make data with the model itself: how much of it, and what is kept."""

from typing import Annotated, Literal

from pydantic import Field

from vesalius.core.recipes import Section
from vesalius.train.config import Count, Fraction, NotNegative

Where = Literal["last", "boxed", "tagged", "whole"]


class MakingSection(Section):
    """limit     of the prompts or tasks, the first so many; all of them where it is left out
    together  answered at once; more are quicker and take more memory
    """

    limit: Count | None = None
    max_tokens: Count = 256
    temperature: NotNegative = 1.0
    together: Count = 32
    seed: Annotated[int, Field(ge=0)] = 0


class CheckedSection(MakingSection):
    """where   the answer stands in what is said: align/rewards/answers.py
    checked  held-out tasks that are tried before and after, without sampling; 0 for none
    """

    where: Where = "last"
    checked: Annotated[int, Field(ge=0)] = 64


class BestOfNSection(CheckedSection):
    """samples  answers to each task, of which the best is kept
    least    what it has to be worth, from 0 to 1
    """

    samples: Count = 4
    least: Fraction = 1.0


class StarSection(CheckedSection):
    """rationalise  whether a wrong answer is tried again with the right one as a hint"""

    temperature: NotNegative = 0.7
    rationalise: bool = True


class ConstitutionSection(MakingSection):
    """file    a TOML file; the constitution that comes with the package where it is left out
    rounds  of critique and revision
    pairs   whether pairs are made by principle behind [sft], for what learns from preferences
    judge   the model that compares: any name that model.start takes; the model itself where it is left out
    least   how likely the better answer of a pair has to be
    """

    temperature: NotNegative = 0.7
    file: str | None = None
    rounds: Count = 1
    pairs: bool = True
    judge: str | None = None
    least: Annotated[float, Field(ge=0.5, le=1)] = 0.55


class SelfRewardingSection(MakingSection):
    """samples  answers to each prompt, which the model marks from 0 to 5
    least    by how much the best has to be better than the worst, which make a pair
    """

    samples: Annotated[int, Field(ge=2)] = 4
    least: NotNegative = 0.1
