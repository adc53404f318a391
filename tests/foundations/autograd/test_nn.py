"""Modules: names, loading, and the numbers of torch's modules of the same name."""

import numpy as np
import pytest
import torch

from vesalius.foundations.autograd.nn import Embedding, LayerNorm, Linear, Module
from vesalius.foundations.autograd.tensor import grad

GENERATOR = np.random.default_rng(0)


class Pair(Module):
    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.layers = [Linear(3, 4, generator), Linear(4, 2, generator)]
        self.norm = LayerNorm(2)
        self.scale = 2.0


def test_parameters_are_named_by_the_attributes_that_lead_to_them():
    names = [name for name, _ in Pair().named_parameters()]
    assert names == [
        "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "norm.weight", "norm.bias",
    ]  # fmt: skip


def test_a_state_can_be_loaded():
    model, other = Pair(), Pair()
    model.layers[0].weight.data[...] = 7
    other.load(model.state())
    assert (other.layers[0].weight.data == 7).all()


def test_a_state_with_other_names_or_shapes_changes_nothing():
    model = Pair()
    state = {name: array + 1 for name, array in model.state().items()}
    with pytest.raises(ValueError, match=r"\['norm.bias'\] are on one side alone"):
        model.load({name: array for name, array in state.items() if name != "norm.bias"})
    with pytest.raises(ValueError, match=r"norm.bias has shape \(2,\), got \(3,\)"):
        model.load(state | {"norm.bias": np.zeros(3)})
    assert (model.norm.weight.data == 1).all()


@pytest.mark.parametrize(
    ("ours", "theirs", "x"),
    [
        (Linear(5, 3, GENERATOR), torch.nn.Linear(5, 3), GENERATOR.normal(size=(2, 4, 5)).astype(np.float32)),
        (LayerNorm(5), torch.nn.LayerNorm(5), GENERATOR.normal(size=(2, 4, 5)).astype(np.float32)),
        (Embedding(7, 5, GENERATOR), torch.nn.Embedding(7, 5), GENERATOR.integers(0, 7, (2, 4))),
    ],
    ids=["linear", "layer norm", "embedding"],
)
def test_modules_and_torchs_load_each_others_weights(ours, theirs, x):
    ours.load({name: array.numpy() for name, array in theirs.state_dict().items()})
    result, expected = ours(x), theirs(torch.from_numpy(x))
    np.testing.assert_allclose(result.data, expected.detach().numpy(), rtol=0, atol=1e-5)
    gradients = grad((result * result).sum(), ours.parameters())
    twins = torch.autograd.grad((expected * expected).sum(), list(theirs.parameters()))
    for one, other in zip(gradients, twins, strict=True):
        np.testing.assert_allclose(one.data, other.numpy(), rtol=0, atol=1e-5)
