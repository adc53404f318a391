"""The KL of drawn answers against torch's own of whole distributions, and against the mean over all answers."""

from itertools import product

import pytest
import torch
from align.tiny_models import model_for
from torch.nn import functional as F

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.credit import Scores, as_it_is
from vesalius.align.policy.distance import answer_kl
from vesalius.align.policy.kl import KLController
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer


def scores(policy: Transformer, reference: Transformer, **settings) -> Scores:
    return Scores(policy=policy, reference=as_it_is(reference), kl=KLController(0.0), rows=2, **settings)


def batch_of(tokens: torch.Tensor, targets: torch.Tensor) -> PolicyBatch:
    nothing = torch.zeros(tokens.shape)
    return PolicyBatch(tokens=tokens, targets=targets, sampled=nothing, advantages=nothing)


@pytest.fixture
def batch(tokenizer: Tokenizer) -> PolicyBatch:
    """Five rows of nine tokens, of which the first three and, in one row, the last two are not the policy's."""
    drawn = torch.randint(tokenizer.vocab_size, (5, 10), generator=torch.Generator().manual_seed(0))
    targets = drawn[:, 1:].clone()
    targets[:, :3] = IGNORE
    targets[2, -2:] = IGNORE
    return batch_of(drawn[:, :-1], targets)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_answer_s_kl_is_the_sum_of_torch_s_over_its_tokens(temperature, batch, tokenizer):
    policy, reference = model_for(tokenizer), model_for(tokenizer, seed=1)
    with torch.no_grad():
        log_p, log_q = ((model(batch.tokens) / temperature).log_softmax(-1) for model in (policy, reference))
    each = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)  # (B, T)
    expected = (each * (batch.targets != IGNORE)).sum(1)
    torch.testing.assert_close(
        answer_kl(scores(policy, reference, temperature=temperature), batch), expected, rtol=1e-5, atol=0
    )


def test_the_mean_over_the_policy_s_answers_is_the_kl_of_the_answers():
    """All answers of three tokens out of five, each weighed by its probability."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    policy, reference = (
        Transformer(ModelConfig(vocab_size=5, initializer_range=0.5, **sizes), seed=seed) for seed in (0, 1)
    )
    answers = torch.tensor(list(product(range(5), repeat=3)))
    tokens = torch.cat((torch.zeros(len(answers), 1, dtype=torch.int64), answers), 1)
    batch = batch_of(tokens[:, :-1], tokens[:, 1:])
    of = scores(policy, reference)
    own, theirs = of.of(policy, batch).sum(1).double(), of.of(reference, batch).sum(1).double()
    expected = (own.exp() * (own - theirs)).sum()
    assert expected > 0.05
    torch.testing.assert_close((own.exp() * answer_kl(of, batch)).sum(), expected, rtol=1e-5, atol=0)


def test_a_policy_that_has_not_moved_is_where_it_was(batch, tokenizer):
    policy = model_for(tokenizer)
    assert answer_kl(scores(policy, policy), batch).tolist() == [0.0] * 5


def test_a_fresh_adapter_is_measured_from_its_base(batch, tokenizer):
    base, policy = model_for(tokenizer), model_for(tokenizer)
    add_lora(policy, LoraConfig(lora_r=2))
    of = scores(policy, policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    found = answer_kl(of, batch)
    assert (found > 0).all()
    torch.testing.assert_close(found, answer_kl(scores(policy, base), batch), rtol=1e-6, atol=0)


def test_without_a_reference_there_is_no_distance(batch, tokenizer):
    with pytest.raises(ValueError, match="no reference is kept"):
        answer_kl(Scores(policy=model_for(tokenizer), reference=None, kl=KLController(0.0)), batch)
