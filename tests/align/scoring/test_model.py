"""A fresh head: rewards of the size of one, whatever the model's last norm does; the decoder is shared."""

import pytest
import torch

from vesalius.align.scoring.model import REWARD, STEPS, ScoringModel
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.train.optim.groups import role

SIZES = {"vocab_size": 200, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


def transformer(**changes) -> Transformer:
    return Transformer(ModelConfig.from_dict(SIZES | changes), seed=1)


@pytest.mark.parametrize("gain", [1.0, 12.0])
@pytest.mark.parametrize("changes", [{}, {"norm": "layer"}, {"norm_offset": True}])
def test_first_rewards_have_a_deviation_of_one(changes: dict, gain: float) -> None:
    model = transformer(**changes)
    torch.nn.init.constant_(model.model.norm.weight, gain)
    tokens = torch.arange(200)[:, None]
    rewards = torch.cat([ScoringModel.on(model, seed=seed)(tokens).flatten() for seed in range(20)])
    assert 0.9 < float(rewards.detach().std()) < 1.1


def test_the_seed_decides_the_head() -> None:
    model = transformer()
    first, same, other = (ScoringModel.on(model, STEPS, seed=seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_decoder_is_the_models_own_and_the_output_head_is_not_in_it() -> None:
    model = transformer(tie_word_embeddings=False)
    head = ScoringModel.on(model, REWARD)
    assert head.model is model.model
    assert not any("lm_head" in name for name in head.state_dict())
    assert (head.labels, ScoringModel.on(model, STEPS).labels) == (1, 2)


def test_the_head_is_in_the_models_precision() -> None:
    assert ScoringModel.on(transformer().to(torch.bfloat16)).score.weight.dtype == torch.bfloat16


def test_the_numbers_at_some_tokens_are_those_of_all() -> None:
    head = ScoringModel.on(transformer(), STEPS).eval()
    tokens = torch.randint(200, (3, 8), generator=torch.Generator().manual_seed(0))
    wanted = torch.rand(3, 8, generator=torch.Generator().manual_seed(1)) < 0.4
    torch.testing.assert_close(head.at(tokens, None, wanted), head(tokens)[wanted], atol=1e-6, rtol=1e-6)


def test_an_optimizer_treats_the_head_as_it_treats_output_heads() -> None:
    head = ScoringModel.on(transformer(), STEPS)
    roles = {name: role(name, parameter) for name, parameter in head.named_parameters()}
    assert (roles["score.weight"], roles["score.bias"]) == ("embedding", "vector")
    assert roles["model.layers.0.self_attn.q_proj.weight"] == "matrix"
