"""Early exit: the first layers with the model's own norm and head, every weight shared."""

import pytest
import torch
from torch import nn

from vesalius.core.errors import UserError
from vesalius.infer.speculative.early_exit import early_exit, first_layers
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
KINDS = {
    "llama": {},
    "gpt2": {"position": "learned", "norm": "layer", "mlp": "plain", "attention_bias": True},
    "gemma3": {
        "block": "sandwich",
        "sliding_window": 4,
        "layer_types": ("full_attention", "sliding_attention") * 2,
        "rope_local_theta": 1000.0,
        "embedding_multiplier": 2.0,
        "tie_word_embeddings": False,
    },
    "alibi": {"position": "alibi", "embedding_norm": True},
}


@pytest.fixture(params=KINDS)
def model(request) -> Transformer:
    return Transformer(ModelConfig.from_dict(SIZES | KINDS[request.param])).eval()


@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_its_logits_are_the_head_of_what_leaves_that_layer(model, count):
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(0))
    left: list[torch.Tensor] = []
    hook = model.model.layers[count - 1].register_forward_hook(lambda _, __, out: left.append(out))
    model(tokens)
    hook.remove()
    expected = model.logits(model.model.norm(left[0]))
    torch.testing.assert_close(first_layers(model, count)(tokens), expected, atol=0, rtol=0)


def test_it_takes_no_memory_and_leaves_the_model_as_it_was(model):
    names = [name for name, _ in model.named_modules()]
    early = first_layers(model, 2)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in early.parameters()} <= own
    assert all(parameter.device.type == "cpu" for parameter in early.parameters())
    assert [name for name, _ in model.named_modules()] == names
    assert len(model.model.layers) == 4 == model.config.num_hidden_layers


def test_a_part_that_is_replaced_in_the_model_later_is_not_replaced_in_it(model):
    """Both name the same modules, but each has names of its own."""
    early = first_layers(model, 2)
    model.lm_head = nn.Linear(32, 61)
    assert early.lm_head is not model.lm_head


@pytest.mark.parametrize("count", [0, 4, 9])
def test_all_layers_or_none_are_no_draft(model, count):
    with pytest.raises(UserError, match="has 4 layers, give a number from 1 to 3"):
        early_exit(model, count)
