"""A model whose layers are in files answers as it does in memory, to the bit, and keeps to its limit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vesalius.compress.fused_layers import fuse_layers
from vesalius.compress.layer_pages import tensors_of
from vesalius.compress.offload import offload_layers
from vesalius.compress.quantised_linear import install_blocks
from vesalius.infer.cache import DenseCache
from vesalius.kernels import quantised_matmul
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.packing import pack
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=64,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=96,
    max_position_embeddings=128,
    attention_bias=True,
    tie_word_embeddings=False,
)


def float_model(**changes):
    model = Transformer(replace(CONFIG, **changes), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def quantised_model(**changes):
    model = float_model(**changes)
    names = [n for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    install_blocks(model, {n: BlockTensor.quantise(model.get_parameter(n).detach(), "q4_1") for n in names})
    fuse_layers(model)
    return model


def experts_model(**changes):
    model = float_model(mixture=Mixture(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64), **changes)
    names = [n for n, p in model.named_parameters() if p.dim() == 3]
    install_blocks(model, {n: BlockTensor.quantise(model.get_parameter(n).detach(), "q8_0") for n in names})
    return model


KINDS = {"float": float_model, "quantised": quantised_model, "experts": experts_model}


def sizes(model):
    """Bytes of all but the layers, and of one layer."""
    layer, whole = (sum(tensor.nbytes for tensor in tensors_of(part)) for part in (model.model.layers[0], model))
    return whole - layer * len(model.model.layers), layer


def hidden_states(model, chunks=(9, 1, 1, 4)):
    """A prompt and some steps over one cache, and the logits without a cache."""
    cache = DenseCache(model.config, capacity=8)
    tokens = torch.randint(64, (1, sum(chunks)), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        steps = [model.model(t, cache.positions(t.shape[1]), cache) for t in tokens.split(chunks, dim=1)]
        return torch.cat([*steps, model.model(tokens)], 1)


@pytest.mark.parametrize("layers", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_the_same_to_the_bit(kind, layers, tmp_path):
    resident, model = KINDS[kind](), KINDS[kind]()
    rest, layer = sizes(model)
    assert offload_layers(model, rest + int(layers * layer), tmp_path) == (4 if layers == 3.5 else 5)
    for _ in range(2):  # the second time after every page was let go
        assert torch.equal(hidden_states(model), hidden_states(resident))


def test_without_the_native_library_too(tmp_path, monkeypatch):
    def model():
        built = float_model()
        names = [n for n, p in built.named_parameters() if p.dim() == 2 and ".layers." in n]
        install_blocks(built, {n: BlockTensor.quantise(built.get_parameter(n).detach(), "q4_1") for n in names})
        return built

    monkeypatch.setattr("vesalius.compress.quantised_linear.pack", lambda blocks, **_: pack(blocks, tiles=False))
    resident, offloaded = model(), model()
    rest, layer = sizes(offloaded)
    assert offload_layers(offloaded, rest + 2 * layer, tmp_path) == 5
    assert torch.equal(hidden_states(offloaded), hidden_states(resident))
    matrix = offloaded.model.layers[0].mlp.up_proj.matrix
    assert torch.equal(matrix.blocks().blocks, resident.model.layers[0].mlp.up_proj.matrix.blocks().blocks)
    assert quantised_matmul.IMPLS["torch"](torch.ones(1, 64), matrix).shape == (1, 96)
