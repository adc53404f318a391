"""A part of the model learns, the rest does not; a pattern that means nothing is told."""

import pytest
import torch
from adapting import TOKENS
from engine_models import tiny_model

from vesalius.adapt.freezing import FreezeConfig, freeze
from vesalius.core.errors import UserError


def learning(**settings):
    model = tiny_model()
    freeze(model, FreezeConfig(**settings))
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_lower_layers_and_the_embedding_are_frozen():
    names = learning(layers=1)
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in names} == {
        "model.layers",
        "model.norm",
        "lm_head.weight",
    }
    assert {name.split(".")[2] for name in names if "layers" in name} == {"1"}


def test_patterns_name_parameters_and_modules():
    everything = learning()
    assert everything - learning(patterns=("self_attn",)) == {name for name in everything if "self_attn" in name}
    assert everything - learning(patterns=("layers.*.mlp.up_proj", "norm.weight")) == {
        name for name in everything if "up_proj" in name or name == "model.norm.weight"
    }


def test_no_gradient_reaches_what_is_frozen():
    model = tiny_model()
    freeze(model, FreezeConfig(layers=1))
    model(TOKENS).sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model.lm_head.weight.grad, torch.Tensor)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match="called 'slef_attn', did you mean 'self_attn'"):
        learning(patterns=("slef_attn",))
    with pytest.raises(UserError, match=r"no parameter of the model is called 'layers\.2'"):
        learning(layers=3)
    with pytest.raises(UserError, match="parameters would be frozen"):
        learning(patterns=("*",))
