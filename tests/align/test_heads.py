"""Training of heads: what each learns, and that a trained one guesses better than an untrained one."""

import pytest
import torch
from infer.speculative.written import text
from torch.nn import functional as F

from vesalius.align.heads import DISCOUNT, MultiToken, later
from vesalius.data.batch import IGNORE, Batch
from vesalius.infer.speculative.heads import Heads, MultiTokenHeads
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.train.config import TrainConfig
from vesalius.train.loop import fit
from vesalius.train.objectives import NextToken
from vesalius.train.optim.build import build_optimizer
from vesalius.train.schedules import build_schedule

V = 32
SIZES = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_targets_are_those_of_the_tokens_further_on_within_a_document():
    batch = Batch(
        tokens=torch.tensor([[1, 2, 3, 4, 5]]),
        targets=torch.tensor([[2, IGNORE, 4, 5, 6]]),
        positions=torch.tensor([[0, 1, 0, 1, 2]]),
    )
    assert later(batch, 1).tolist() == [[IGNORE, IGNORE, 5, 6, IGNORE]]
    assert later(batch, 2).tolist() == [[IGNORE, IGNORE, 6, IGNORE, IGNORE]]


@pytest.mark.parametrize("capped", [False, True])
def test_the_loss_is_the_discounted_sum_of_every_heads_cross_entropy(capped):
    config = ModelConfig.from_dict(SIZES | {"final_logit_softcapping": 5.0 if capped else 0.0})
    model = Transformer(config).requires_grad_(False)
    heads = MultiTokenHeads(32, 2)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(V, (3, 12))
    loss, metrics = MultiToken(model)(heads, Batch(tokens=tokens[:, :-1], targets=tokens[:, 1:]))
    hidden = model.model(tokens[:, :-1])
    expected = torch.tensor(0.0)
    for i in (1, 2):
        logits = model.logits(heads(hidden)[i - 1])[:, :-i]
        part = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1 + i :].flatten())
        torch.testing.assert_close(metrics[f"head_{i}"], part)
        expected = expected + DISCOUNT**i * part
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in heads.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


class Counting:
    """Rows that count by a step of their own, modulo V: the second token back tells everything that comes."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def rows(self, count: int) -> torch.Tensor:
        start, step = (torch.randint(V, (count, 1), generator=self.generator) for _ in range(2))
        return (start + (1 + step % 3) * torch.arange(17)) % V

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        rows = self.rows(32)
        return Batch(tokens=rows[:, :-1], targets=rows[:, 1:])

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...


def trained(model, objective, steps: int, rate: float):
    config = TrainConfig(steps=steps, learning_rate=rate, batch_tokens=512, context=16, precision="float32")
    return fit(model, Counting(), objective, build_optimizer(model, config), build_schedule(config), config=config)


def stood(model: Transformer, heads: MultiTokenHeads) -> float:
    """Tokens of a draft of two that are right, on average over rows nobody was trained on."""
    drafter, total = Heads(model, heads), 0
    rows = Counting().rows(40)
    for row in rows:
        with torch.no_grad():
            hidden = model.model(row[None, :9])[0, -1]
        draft = drafter.propose(text(row[:10].tolist(), hidden=hidden), 2)
        guesses, truth = draft.tokens, row[10:].tolist()
        if draft.is_chain:
            right = [a == b for a, b in zip(guesses, truth, strict=False)]
            total += right[0] + (right[0] and right[1])
        else:
            total += truth[0] in guesses
    return total / len(rows)


def test_more_of_the_drafts_stand_after_training_and_the_model_is_what_it_was():
    model = Transformer(ModelConfig.from_dict(SIZES))
    assert trained(model, NextToken(), 80, 2e-2).loss < 0.6
    model.eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    heads = MultiTokenHeads(32, 2)
    untrained = stood(model, heads)
    trained(heads, MultiToken(model), 60, 3e-2)
    assert stood(model, heads.eval()) > untrained + 0.4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
