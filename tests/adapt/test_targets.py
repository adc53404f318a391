"""Patterns name linear layers; a name that means none is an error with the nearest."""

import pytest
from engine_models import tiny_model
from quantised_models import TINY, quantised

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.switch import adapted_layers, is_adapted
from vesalius.adapt.targets import linear_layers, pick
from vesalius.compress.quantised_linear import QuantisedLinear
from vesalius.core.errors import UserError

BLOCK = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
PATHS = ("0.self_attn.q_proj", "0.mlp.up_proj", "1.mlp.up_proj")
BLOCK += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def names(*patterns: str) -> list[str]:
    return list(pick(tiny_model(), patterns))


def test_all_linear_is_all_but_the_head():
    assert names("all-linear") == [f"model.layers.{i}.{part}" for i in range(2) for part in BLOCK]


def test_a_pattern_is_the_end_of_a_name():
    assert names("q_proj") == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    assert names("layers.*.mlp.*") == [f"model.layers.{i}.{part}" for i in range(2) for part in BLOCK[4:]]
    assert names("layers.1.*", "lm_head") == [*(f"model.layers.1.{part}" for part in BLOCK), "lm_head"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("q_porj", "called 'q_porj', did you mean 'q_proj'"),
        ("proj", "called 'proj', did you mean"),
        ("layers.7.*", "known: "),
    ],
)
def test_a_pattern_that_means_nothing_is_told_with_the_nearest(pattern, message):
    model = tiny_model()
    with pytest.raises(UserError, match=message):
        add_lora(model, LoraConfig(target_modules=("up_proj", pattern)))
    assert not is_adapted(model)
    with pytest.raises(UserError, match="no target_modules"):
        pick(model, ())


def test_layers_inside_of_adapters_are_no_targets():
    model = tiny_model()
    before = linear_layers(model)
    add_lora(model, LoraConfig(target_modules=("v_proj",)))
    after = linear_layers(model)
    assert list(before) == list(after)
    assert all(after[name] is layer for name, layer in before.items())


def test_ranks_and_alphas_by_pattern():
    config = LoraConfig(
        lora_r=2, lora_alpha=6, rank_pattern={"mlp.*": 3, "layers.1.mlp.up_proj": 6}, alpha_pattern={"q_proj": 8}
    )
    model = tiny_model()
    add_lora(model, config)
    found = {
        path.removeprefix("model.layers."): layer.adapters["default"] for path, layer in adapted_layers(model).items()
    }
    assert [len(found[path].lora_A) for path in ("0.self_attn.q_proj", "0.mlp.up_proj", "1.mlp.up_proj")] == [2, 3, 6]
    assert [found[path].scale for path in ("0.self_attn.q_proj", "0.mlp.up_proj", "1.mlp.up_proj")] == [4.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_r": 0}, "lora_r = 0, expected a rank from 1"),
        ({"rank_pattern": {"q_proj": -1}}, "q_proj = -1, expected a rank"),
        ({"lora_dropout": 1.0}, "lora_dropout = 1.0, expected 0 to below 1"),
    ],
)
def test_settings_out_of_range_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        LoraConfig(**settings)


def test_a_layer_that_keeps_its_weights_otherwise_is_a_target():
    layers = pick(quantised(TINY), ["all-linear"])
    assert len(layers) == 14
    assert all(isinstance(layer, QuantisedLinear) for layer in layers.values())
