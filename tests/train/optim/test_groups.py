"""Which parameters decay, and with whose rate."""

import pytest
import torch

from vesalius.train.optim.groups import parameter_groups, role


def by_name(groups):
    return {name: group for group in groups for name, _ in group["params"]}


def test_every_parameter_is_in_one_group(tiny_model):
    model = tiny_model(attention_bias=True, tie_word_embeddings=False)
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1)
    assert sorted(name for g in groups for name, _ in g["params"]) == sorted(n for n, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "embedding"),
        ("model.layers.0.self_attn.q_proj.weight", "matrix"),
        ("model.layers.0.self_attn.q_proj.bias", "vector"),
        ("model.layers.1.input_layernorm.weight", "vector"),
    ],
)
def test_roles(tiny_model, name, kind):
    model = tiny_model(attention_bias=True, tie_word_embeddings=False)
    assert by_name(parameter_groups(model, learning_rate=1.0, weight_decay=0.1))[name]["role"] == kind


def test_the_stacked_biases_of_experts_are_vectors():
    assert role("model.layers.0.mlp.experts.up_proj_bias", torch.empty(4, 8)) == "vector"
    assert role("model.layers.0.mlp.experts.up_proj", torch.empty(4, 8, 6)) == "matrix"


def test_vectors_never_decay_and_embeddings_as_asked(tiny_model):
    groups = parameter_groups(
        tiny_model(), learning_rate=1.0, weight_decay=0.1, embedding_learning_rate=3.0, embedding_weight_decay=0.02
    )
    assert {group["role"]: (group["lr"], group["weight_decay"]) for group in groups} == {
        "matrix": (1.0, 0.1),
        "embedding": (3.0, 0.02),
        "vector": (3.0, 0.0),
    }


def test_frozen_parameters_are_left_out(tiny_model):
    model = tiny_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1)
    assert "embedding" not in {group["role"] for group in groups}
