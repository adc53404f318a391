"""Quantised layers in a built model: the outputs up to rounding, stored blocks as state, gradients through."""

import copy

import pytest
import torch
from torch import nn

from vesalius.compress.quantised_linear import QuantisedEmbedding, QuantisedLinear, install_blocks
from vesalius.core.errors import UserError
from vesalius.kernels.block_formats import BlockTensor
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer


def blocks(*shape, format="q8_0", seed=0):
    return BlockTensor.quantise(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), format)


def tiny_model():
    config = ModelConfig(
        vocab_size=70,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return Transformer(config)


def quantised(model, format="q8_0"):
    """The model's linear weights and embedding as blocks, under their names in its state_dict."""
    weights = {
        name: BlockTensor.quantise(parameter.detach(), format)
        for name, parameter in model.named_parameters()
        if name.endswith("proj.weight")
    }
    embedding = BlockTensor.quantise(model.lm_head.weight.detach(), "q8_0")
    return weights | {"lm_head.weight": embedding, "model.embed_tokens.weight": embedding}


def test_a_linear_layer_equals_the_float_layer_of_its_weights():
    layer, x = QuantisedLinear.from_blocks(blocks(20, 64), bias=torch.arange(20.0)), torch.randn(3, 5, 64)
    truth = nn.functional.linear(x, layer.dequantise(), torch.arange(20.0))
    torch.testing.assert_close(layer(x), truth, atol=0.2, rtol=0.02)
    assert (layer.in_features, layer.out_features, layer.format) == (64, 20, "q8_0")
    assert repr(layer) == "QuantisedLinear(64, 20, format=q8_0)"


def test_the_output_has_the_dtype_of_the_input():
    layer = QuantisedLinear.from_blocks(blocks(20, 64), bias=torch.ones(20))
    assert layer(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16


def test_an_embedding_gives_exactly_the_stored_rows():
    stored, ids = blocks(70, 64, format="q4_1"), torch.tensor([[3, 69], [0, 3]])
    layer = QuantisedEmbedding.from_blocks(stored)
    assert torch.equal(layer(ids), stored.dequantise()[ids])
    with pytest.raises(IndexError, match="ids must be 0 to 69"):
        layer(torch.tensor([70]))


def test_weights_are_frozen_and_gradients_flow_through():
    layer, x = QuantisedLinear.from_blocks(blocks(20, 64), bias=torch.ones(20)), torch.randn(3, 64, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.dequantise().sum(0).expand(3, -1), atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("bias", [None, torch.arange(20.0)])
def test_top_k_is_that_of_the_outputs(bias):
    layer, x = QuantisedLinear.from_blocks(blocks(20, 64), bias), torch.randn(2, 3, 64)
    values, ids = layer.top_k(x, 4)
    truth = layer(x).topk(4)
    torch.testing.assert_close(values, truth.values)
    assert torch.equal(ids, truth.indices)


def test_the_state_is_the_stored_blocks_and_loads_back():
    stored, other = blocks(20, 64), blocks(20, 64, seed=1)
    layer = QuantisedLinear.from_blocks(stored, bias=torch.ones(20))
    state = layer.state_dict()
    assert set(state) == {"bias", "blocks"}
    assert torch.equal(state["blocks"], stored.blocks)
    second = QuantisedLinear.from_blocks(other, bias=torch.zeros(20))
    second.load_state_dict(state)
    assert torch.equal(second.blocks().blocks, stored.blocks)
    x = torch.randn(2, 64)
    assert torch.equal(second(x), layer(x))


def test_a_state_that_does_not_fit_is_refused():
    layer = QuantisedLinear.from_blocks(blocks(20, 64))
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({})
    with pytest.raises(RuntimeError, match="must be uint8"):
        layer.load_state_dict({"blocks": torch.zeros(20, 67, dtype=torch.uint8)})


def test_a_bias_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"bias must have shape \(20,\), got \(3,\)"):
        QuantisedLinear.from_blocks(blocks(20, 64), bias=torch.ones(3))


def test_installed_blocks_change_the_model_only_by_rounding():
    model, tokens = tiny_model(), torch.arange(12).view(2, 6)
    before = model(tokens)
    install_blocks(model, quantised(model))
    assert isinstance(model.lm_head, QuantisedLinear)
    assert isinstance(model.model.embed_tokens, QuantisedEmbedding)
    assert model.lm_head.matrix is model.model.embed_tokens.matrix
    torch.testing.assert_close(model(tokens), before, atol=0.03, rtol=0.03)


def test_a_model_with_installed_blocks_saves_loads_and_copies():
    model, tokens = tiny_model(), torch.arange(12).view(2, 6)
    install_blocks(model, quantised(model))
    logits = model(tokens)
    assert torch.equal(copy.deepcopy(model)(tokens), logits)
    other = tiny_model()
    install_blocks(other, {name: blocks(*stored.shape, seed=7) for name, stored in quantised(other).items()})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens), logits)


def test_names_and_shapes_that_do_not_fit_leave_the_model_untouched():
    model = tiny_model()
    good = {"model.layers.0.mlp.up_proj.weight": blocks(96, 64)}
    with pytest.raises(UserError, match=r"'lm_haed.weight' is not the weight .* did you mean 'lm_head.weight'"):
        install_blocks(model, good | {"lm_haed.weight": blocks(70, 64)})
    with pytest.raises(
        UserError, match=r"lm_head.weight has shape \(70, 64\) in the model, the blocks have \(64, 64\)"
    ):
        install_blocks(model, good | {"lm_head.weight": blocks(64, 64)})
    assert isinstance(model.model.layers[0].mlp.up_proj, nn.Linear)
