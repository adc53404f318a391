"""Bottleneck adapters beside their formula, and where they stand."""

import pytest
import torch
from adapting import TOKENS, stir
from engine_models import tiny_model
from torch.nn import functional as F

from vesalius.adapt.bottleneck import BottleneckConfig, add_bottleneck
from vesalius.adapt.switch import adapted_layers
from vesalius.core.errors import UserError


@pytest.mark.parametrize(("placement", "places"), [("houlsby", ["o_proj", "down_proj"]), ("pfeiffer", ["down_proj"])])
def test_they_stand_behind_the_parts_that_the_placement_names(placement, places):
    model = tiny_model()
    add_bottleneck(model, BottleneckConfig(placement=placement))
    assert [path.rpartition(".")[2] for path in adapted_layers(model)] == places * 2


@pytest.mark.parametrize(("name", "act"), [("relu", F.relu), ("gelu", F.gelu)])
def test_what_one_adds_is_a_small_network_of_the_output(name, act):
    model = tiny_model()
    add_bottleneck(model, BottleneckConfig(bottleneck_size=5, hidden_act=name))
    stir(model, "default")
    layer = model.model.layers[1].self_attn.o_proj
    part = layer.adapters["default"]
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    y = F.linear(x, layer.base.weight)
    inner = act(F.linear(y, part.down.weight, part.down.bias))
    assert inner.shape == (3, 5)
    expected = y + F.linear(inner, part.up.weight, part.up.bias)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_the_same_seed_draws_the_same_weights_and_leaves_the_global_state_alone():
    models = tiny_model(), tiny_model()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for model in models:
        add_bottleneck(model, BottleneckConfig(), seed=3)
    assert torch.equal(before, torch.get_rng_state())
    first, second = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(parameter, second[name]) for name, parameter in first.items())
    assert models[0](TOKENS).shape[-1] == 61


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck_size": 0}, "bottleneck_size = 0, expected a width from 1"),
        ({"placement": "hulsby"}, "did you mean 'houlsby'"),
        ({"hidden_act": "rleu"}, "did you mean 'relu'"),
    ],
)
def test_settings_out_of_range_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        BottleneckConfig(**settings)
