"""Merging: the same logits from plain weights, and everything back as it was."""

import copy

import pytest
import torch
from adapting import KINDS, LINEAR_MAPS, adapted, hidden, logits, stir
from engine_models import tiny_model
from quantised_models import TINY, quantised
from torch import nn

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.merging import fold, is_mergeable, merge, unmerge
from vesalius.adapt.switch import disabled, is_adapted, switch
from vesalius.core.errors import UserError

CALM = {"initializer_range": 0.1}
"""Weights that do not enlarge roundings from layer to layer."""


def biased(model: nn.Module) -> nn.Module:
    """Gives layers a bias, which some adapters scale."""
    for name in ("k_proj", "down_proj"):
        for path, layer in list(model.named_modules()):
            if path.endswith(name):
                layer.bias = nn.Parameter(torch.linspace(-1, 1, layer.out_features), requires_grad=False)
    return model


@pytest.mark.parametrize("kind", LINEAR_MAPS)
def test_merged_weights_give_the_same_and_unmerged_ones_the_same_bits(kind):
    model = biased(adapted(**CALM))
    KINDS[kind](model, "one", 0)
    stir(model, "one")
    before = hidden(model)
    merge(model)
    torch.testing.assert_close(hidden(model), before, rtol=0, atol=1e-5)
    unmerge(model)
    assert torch.equal(hidden(model), before)


@pytest.mark.parametrize("kind", LINEAR_MAPS)
def test_a_folded_model_is_plain(kind):
    model = adapted("one", "two", kind=kind, **CALM)
    switch(model, "one", "two")
    before = hidden(model)
    fold(model)
    assert not is_adapted(model)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()
    torch.testing.assert_close(hidden(model), before, rtol=0, atol=1e-5)


def test_a_merged_model_changes_no_adapters_and_is_still_its_base_where_disabled():
    model = adapted("one", "two")
    merge(model)
    for change in (lambda: switch(model, "one"), lambda: add_lora(model, LoraConfig(), "three"), lambda: merge(model)):
        with pytest.raises(UserError, match="merged"):
            change()
    with disabled(model):
        assert torch.equal(logits(model), logits(tiny_model()))


def test_quantised_layers_become_floats_and_come_back():
    model = quantised(TINY)
    add_lora(model, LoraConfig(lora_r=4, target_modules=("layers.0.mlp.*",)))
    stir(model, "default")
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    changed = layer.base.dequantise() + layer.adapters["default"].weight_change(layer.base)[0]
    before = logits(model)
    merge(model)
    torch.testing.assert_close(layer(x), x @ changed.T, rtol=0, atol=1e-5)
    unmerge(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", ["bottleneck", "prompt", "prefix"])
def test_what_is_no_change_of_the_weights_cannot_be_merged(kind):
    model = adapted("one", kind=kind)
    before = logits(model)
    assert not is_mergeable(model)
    with pytest.raises(UserError, match="cannot be merged"):
        fold(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_adapters_of_its_own(kind):
    model = adapted("one", "two", kind=kind)
    other = copy.deepcopy(model)
    switch(other, "one")
    assert torch.equal(logits(model), logits(adapted("one", "two", kind=kind)))
    assert torch.equal(logits(other), logits(adapted("one", kind=kind)))
