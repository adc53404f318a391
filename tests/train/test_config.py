"""The [train] section: one budget, values in range, and messages that say what to write instead."""

import tomllib

import pytest

from vesalius.core.errors import UserError
from vesalius.core.recipes import Section, build_recipe, dump_recipe
from vesalius.train.config import TrainConfig


class Recipe(Section):
    train: TrainConfig


def build(**train):
    return build_recipe({"train": train}, Recipe).train


@pytest.mark.parametrize("budget", [{}, {"steps": 1, "minutes": 1.0}, {"tokens": 5, "steps": 1, "minutes": 2.0}])
def test_exactly_one_budget(budget):
    with pytest.raises(UserError, match="exactly one of steps, tokens and minutes"):
        build(**budget)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 1.5),
        ("steps", True),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("learning_rate", "0.1"),
        ("betas", [0.9, 1.0]),
        ("betas", [0.9]),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("optimizer", "adamv"),
        ("schedule", "cosin"),
        ("warmup", 1.0),
        ("final_fraction", 1.1),
        ("clip_norm", 0.0),
        ("label_smoothing", 1.0),
        ("precision", "fp16"),
        ("seed", -1),
        ("keep_checkpoints", 0),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=rf"train\.{name}"):
        build(**({"steps": 10} | {name: value}))


def test_the_guard_is_a_section_of_its_own():
    assert build(steps=1, guard={"skips": 5}).guard.skips == 5
    with pytest.raises(UserError, match="did you mean 'spike_z'"):
        build(steps=1, guard={"spike_zz": 5.0})


def test_a_section_survives_its_toml():
    config = Recipe(train=TrainConfig(minutes=1.5, betas=(0.8, 0.9), optimizer="muon", warmup=0.1))
    text = dump_recipe(config)
    assert build_recipe(tomllib.loads(text), Recipe) == config


def test_warmup_steps_are_a_fraction_of_the_budget():
    assert build(steps=200, warmup_steps=20).warmup_fraction == 0.1
    assert build(tokens=4096 * 200, warmup_steps=20).warmup_fraction == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minutes": 1.0, "warmup_steps": 5}, "with minutes give warmup"),
        ({"steps": 9, "warmup_steps": 5, "warmup": 0.1}, "expected one of them"),
        ({"steps": 9, "warmup_steps": 9}, "whole budget"),
        ({"steps": 9, "schedule": "inverse_sqrt"}, "give warmup"),
        ({"steps": 9, "schedule": "wsd", "warmup": 0.5, "decay_fraction": 0.6}, "exceed the budget"),
        ({"steps": 9, "batch_tokens": 1000, "context": 256}, "take 1024"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)


def test_rows_of_a_batch():
    assert build(steps=1, batch_tokens=1024, context=256).batch_rows == 4
