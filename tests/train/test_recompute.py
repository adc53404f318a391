"""Recomputed layers: the same losses and gradients to the bit, with a fraction of what is kept."""

import pytest
import torch
from engine_models import tiny_model

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.data.batch import Batch
from vesalius.models.transformer import Layers
from vesalius.train.objectives import NextToken
from vesalius.train.recompute import RecomputedLayers, recomputed

TOKENS = torch.arange(48).view(2, 24)
BATCH = Batch(tokens=TOKENS, targets=TOKENS.roll(-1, 1))


def gradients(model):
    """The loss, the gradients, and how many numbers were kept for them; dropout draws the same."""
    kept = {}
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        loss, _ = NextToken()(model, BATCH)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    weights = {p.data_ptr() for p in model.parameters()}
    return loss, found, sum(t.numel() for address, t in kept.items() if address not in weights)


@pytest.mark.parametrize("adapted", [False, True])
def test_gradients_are_the_same_and_less_is_kept(adapted):
    model = tiny_model("grouped")
    for block in model.model.layers:
        block.dropout.p = 0.1
    if adapted:
        add_lora(model, LoraConfig(lora_r=4, lora_dropout=0.1))
    model.train()
    names = list(model.state_dict())
    loss, truth, kept = gradients(model)
    with recomputed(model):
        assert list(model.state_dict()) == names
        assert isinstance(model.model.layers, RecomputedLayers)
        again, ours, less = gradients(model)
    assert type(model.model.layers) is Layers
    assert torch.equal(loss, again)
    assert ours.keys() == truth.keys()
    assert all(torch.equal(ours[name], truth[name]) for name in truth)
    assert less < kept / 3


def test_an_error_puts_the_layers_back():
    model = tiny_model("grouped")
    layers = model.model.layers
    with pytest.raises(RuntimeError, match="stop"), recomputed(model):
        raise RuntimeError("stop")
    assert model.model.layers is layers
