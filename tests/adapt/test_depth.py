"""A model with some of its layers computes what the deep one does when it passes over the others."""

import pytest
import torch

from vesalius.adapt.depth import spread_layers, with_layers
from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.transformer import Layers, Transformer

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4}
EXPERTS = Mixture(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, dense_layers=(0, 3))
KINDS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "sliding": {"sliding_window": 4, "layer_types": ("full_attention", "sliding_attention", "full_attention") * 2},
    "partly turned": {"layers_without_rope": (2, 3)},
    "mixture": {"mixture": EXPERTS},
}  # fmt: skip
TOKENS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_deep_model_without_the_other_layers(kind: str) -> None:
    deep = Transformer(ModelConfig(**SIZES, **KINDS[kind])).eval()
    shallow = with_layers(deep, 4)
    deep.model.layers = Layers(deep.model.layers[layer] for layer in (0, 2, 3, 5))
    with torch.no_grad():
        torch.testing.assert_close(shallow(TOKENS), deep(TOKENS), rtol=0, atol=0)
    assert shallow.config.num_hidden_layers == 4
    assert ModelConfig.from_dict(shallow.config.to_dict()) == shallow.config


def test_the_weights_are_its_own() -> None:
    deep = Transformer(ModelConfig(**SIZES))
    shallow = with_layers(deep, 2)
    assert shallow.training
    with torch.no_grad():
        shallow.lm_head.weight.zero_()
    assert deep.lm_head.weight.any()
    assert shallow.lm_head.weight is shallow.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [(6, 6, [0, 1, 2, 3, 4, 5]), (6, 3, [0, 2, 5]), (6, 2, [0, 5]), (6, 1, [0]), (1, 1, [0])],
)
def test_layers_are_spread_from_the_first_to_the_last(layers: int, count: int, expected: list[int]) -> None:
    assert spread_layers(layers, count) == expected


@pytest.mark.parametrize("count", [0, 7])
def test_a_number_of_layers_that_there_is_not_is_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"cannot keep {count} of 6 layers: give a number from 1 to 6"):
        with_layers(Transformer(ModelConfig(**SIZES)), count)
