"""NF4 layers in a built model: products and gradients of the float weights they stand for, frozen, saved as packed."""

import copy

import pytest
import torch
from torch import nn

from vesalius.compress.fused_layers import fuse_layers
from vesalius.compress.nf4_linear import NF4Linear, install_nf4
from vesalius.compress.quantised_experts import QuantisedExperts
from vesalius.compress.quantised_linear import install_blocks
from vesalius.core.errors import UserError
from vesalius.hub.unpacking import unpacked
from vesalius.kernels import frozen_product
from vesalius.kernels.block_formats import BlockTensor
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Layers, Transformer


def layer(bias=None):
    weight = torch.randn(20, 96, generator=torch.Generator().manual_seed(0))
    return NF4Linear.from_floats(weight, bias)


def tiny_model(**changes):
    sizes = {"vocab_size": 70, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Transformer(ModelConfig(**sizes, **heads, **{"tie_word_embeddings": True, **changes}))


@pytest.fixture(params=[1, 10**9], ids=["a row at a time", "at once"])
def _stretches(request, monkeypatch):
    monkeypatch.setattr(frozen_product, "VALUES_AT_ONCE", request.param)


@pytest.mark.usefixtures("_stretches")
@pytest.mark.parametrize("bias", [None, torch.arange(20.0)])
def test_products_and_gradients_are_those_of_the_float_weights(bias):
    packed, x = layer(bias), torch.randn(3, 5, 96, requires_grad=True)
    truth = nn.functional.linear(x, packed.dequantise(), bias)
    y = packed(x)
    torch.testing.assert_close(y, truth, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((out * direction).sum(), x)[0] for out in (y, truth))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("_stretches")
def test_under_autocast_products_and_gradients_are_bfloat16s():
    packed, x = layer(), torch.randn(4, 96, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, truth = packed(x), nn.functional.linear(x, packed.dequantise())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, truth, atol=1e-2, rtol=1e-2)
    ours, theirs = (torch.autograd.grad(out.float().square().sum(), x)[0] for out in (y, truth))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=0.05 * theirs.abs().max().item(), rtol=0.01)


def test_nothing_is_kept_for_the_backward_pass_and_nothing_is_trained():
    packed, x = layer(torch.ones(20)), torch.randn(3, 96, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        packed(x).sum().backward()
    assert not [tensor for tensor in kept if tensor.numel() >= x.numel()]
    assert not any(parameter.requires_grad for parameter in packed.parameters())


def test_the_state_is_the_packed_weights_and_loads_back():
    packed, x = layer(), torch.randn(2, 96)
    assert set(packed.state_dict()) == {"codes", "scale_codes", "scale_steps", "scale_mean"}
    other = NF4Linear.from_floats(torch.zeros(20, 96))
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), packed(x))
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))
    assert repr(packed) == "NF4Linear(96, 20, format=nf4)"


def test_a_bias_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"bias must have shape \(20,\), got \(3,\)"):
        layer(torch.ones(3))


def test_all_linear_layers_but_the_head_are_replaced():
    model, tokens = tiny_model(attention_bias=True), torch.arange(12).view(2, 6)
    before = model(tokens)
    assert install_nf4(model) == 14
    assert type(model.lm_head) is nn.Linear
    assert all(isinstance(part, NF4Linear) for name, part in model.named_modules() if name.endswith("_proj"))
    after = model(tokens)
    assert 0 < (after - before).abs().max() < 0.1


@pytest.mark.parametrize("tied", [True, False])
def test_a_quantised_model_is_taken_as_what_it_stands_for(tied):
    model = tiny_model(tie_word_embeddings=tied)
    names = [name for name in model.state_dict() if name.endswith("proj.weight")]
    stored = {name: BlockTensor.quantise(model.get_parameter(name), "q8_0") for name in names}
    ends = [BlockTensor.quantise(part.weight, "q8_0") for part in (model.model.embed_tokens, model.lm_head)]
    ends = [ends[0], ends[0] if tied else ends[1]]
    install_blocks(model, stored | dict(zip(("model.embed_tokens.weight", "lm_head.weight"), ends, strict=True)))
    fuse_layers(model)
    assert install_nf4(model) == len(names)
    assert type(model.model.layers) is Layers
    for name in names:
        truth = NF4Linear.from_floats(stored[name].dequantise())
        assert torch.equal(model.get_submodule(name.removesuffix(".weight")).dequantise(), truth.dequantise())
    for part, blocks in zip((model.model.embed_tokens, model.lm_head), ends, strict=True):
        assert torch.equal(part.weight, blocks.dequantise())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_a_mixture_whose_experts_are_quantised_is_refused():
    model = tiny_model()
    stack = BlockTensor.quantise(torch.randn(2, 96, 64), "q8_0")
    model.model.layers[1].mlp.add_module("experts", QuantisedExperts.from_blocks(stack))
    with pytest.raises(UserError, match="experts is a stack of experts: leave out quantise"):
        install_nf4(model)
    assert type(model.model.layers[0].mlp.up_proj) is not NF4Linear


def test_unpacked_it_is_the_float_model_of_its_weights():
    model, tokens = tiny_model(), torch.arange(12).view(2, 6)
    install_nf4(model)
    plain = unpacked(model)
    assert set(plain.state_dict()) == set(tiny_model().state_dict())
    torch.testing.assert_close(plain(tokens), model(tokens), atol=1e-5, rtol=1e-5)
