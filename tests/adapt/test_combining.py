"""Adapters combined, beside PEFT's, and the properties of dropping."""

import pytest
import torch
from adapting import TOKENS, adapted
from peft.utils import merge_utils

from vesalius.adapt.combining import combine, drop, elect, trim
from vesalius.adapt.switch import adapted_layers, adapter_names
from vesalius.core.errors import UserError

WEIGHTS = {"one": 0.7, "two": -0.4}


def changes(model, name):
    layers = adapted_layers(model)
    return {path: layer.adapters[name].weight_change(layer.base)[0].detach() for path, layer in layers.items()}


def both(model):
    first, second = (changes(model, name) for name in WEIGHTS)
    return {path: torch.stack((first[path], second[path])) for path in first}


def test_linear_is_the_weighted_sum_exactly():
    model = adapted("one", "two")
    expected = {path: 0.7 * pair[0] - 0.4 * pair[1] for path, pair in both(model).items()}
    combine(model, WEIGHTS, "sum")
    assert adapter_names(model) == ("one", "two", "sum")
    found = changes(model, "sum")
    for path, change in expected.items():
        torch.testing.assert_close(found[path], change, rtol=0, atol=1e-6)
    assert {len(layer.adapters["sum"].lora_A) for layer in adapted_layers(model).values()} == {8}
    assert model(TOKENS).isfinite().all()


def test_a_rank_keeps_the_largest_singular_values():
    model = adapted("one", "two")
    expected = {path: 0.7 * pair[0] - 0.4 * pair[1] for path, pair in both(model).items()}
    combine(model, WEIGHTS, "sum", rank=3)
    for path, change in changes(model, "sum").items():
        values = torch.linalg.svdvals(expected[path])
        error = torch.linalg.matrix_norm(change - expected[path])
        torch.testing.assert_close(error, values[3:].norm(), rtol=1e-4, atol=1e-5)


def test_ties_is_that_of_peft():
    pair = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.7, -0.4])
    for density in (0.2, 0.5):
        trimmed = torch.stack([trim(change, density) for change in pair])
        expected = merge_utils.ties(list(pair), weights, density)
        torch.testing.assert_close(elect(trimmed, weights), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["ties", "dare", "dare_ties"])
def test_each_way_is_an_adapter_of_the_asked_rank(how):
    model = adapted("one", "two")
    combine(model, WEIGHTS, "made", how, rank=5, seed=1)
    assert {len(layer.adapters["made"].lora_A) for layer in adapted_layers(model).values()} == {5}
    again = adapted("one", "two")
    combine(again, WEIGHTS, "made", how, rank=5, seed=1)
    assert all(torch.equal(change, changes(again, "made")[path]) for path, change in changes(model, "made").items())


def test_ties_of_an_adapter_with_full_density_is_that_adapter():
    model = adapted("one")
    before = changes(model, "one")
    combine(model, {"one": 1.0}, "same", "ties", density=1.0)
    for path, change in changes(model, "same").items():
        torch.testing.assert_close(change, before[path], rtol=0, atol=1e-5)


def test_dropping_keeps_the_mean():
    """Of 10,000 draws; five standard errors."""
    change = torch.ones(10_000)
    dropped = drop(change, 0.25, torch.Generator().manual_seed(0))
    assert set(dropped.tolist()) == {0.0, 4.0}
    assert abs(float(dropped.mean()) - 1) < 5 * (3 / 10_000) ** 0.5


def test_what_does_not_fit_is_one_line():
    model = adapted("one")
    with pytest.raises(UserError, match="no adapter 'two', known: one"):
        combine(model, WEIGHTS, "sum")
    with pytest.raises(UserError, match="no way 'tise' to combine adapters, did you mean 'ties'"):
        combine(model, {"one": 1.0}, "sum", "tise")
    with pytest.raises(UserError, match=r"density = 0.0, expected above 0 to 1"):
        combine(model, {"one": 1.0}, "sum", "dare", density=0.0)
    with pytest.raises(UserError, match="'one' is no plain LoRA"):
        combine(adapted("one", kind="dora"), {"one": 1.0}, "sum")
