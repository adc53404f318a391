"""What a reward model's losses are by their formulas, and how answers are scored."""

import pytest
import torch
from torch.nn import functional as F

from vesalius.align.scoring import reward
from vesalius.align.scoring.batch import ScoredBatch
from vesalius.align.scoring.model import STEPS, ScoringModel
from vesalius.align.scoring.reward import BradleyTerry, Regression, score
from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

V = 50


def model(labels: int = 1, **changes) -> ScoringModel:
    sizes = {
        "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2,
        "max_position_embeddings": 64,
    }  # fmt: skip
    return ScoringModel.on(Transformer(ModelConfig.from_dict(sizes | changes), seed=1), labels, seed=2).eval()


def batch(*numbers: float) -> ScoredBatch:
    """A row for each number, wanted at its last token."""
    tokens = torch.randint(V, (len(numbers), 6), generator=torch.Generator().manual_seed(0))
    targets = torch.full((len(numbers), 6), torch.nan)
    targets[:, -1] = torch.tensor(numbers)
    return ScoredBatch(tokens=tokens, positions=torch.arange(6).expand(len(numbers), 6), targets=targets)


def test_the_loss_is_that_of_bradley_and_terry_with_margin_and_centring():
    head, rows = model(), batch(0.5, 0.0, -1.0, 0.0)
    a, b, c, d = head(rows.tokens)[:, -1, 0].double()
    expected = sum(
        torch.log1p(torch.exp(-(chosen - rejected - m))) + 0.1 * (chosen + rejected) ** 2
        for chosen, rejected, m in ((a, b, 0.5), (c, d, -1.0))
    )
    loss, metrics = BradleyTerry(centring=0.1)(head, rows)
    torch.testing.assert_close(loss.double(), expected / 2, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(metrics["margin"].double(), (a - b + c - d) / 2, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(metrics["reward"].double(), (a + b + c + d) / 4, atol=1e-6, rtol=1e-6)


def test_equal_rewards_are_half_right_and_cost_ln_2():
    head, rows = model(), batch(0.0, 0.0)
    torch.nn.init.zeros_(head.score.weight)
    loss, metrics = BradleyTerry()(head, rows)
    torch.testing.assert_close(loss, torch.tensor(2.0).log())
    assert float(metrics["accuracy"]) == 0.5


@pytest.mark.parametrize("objective", [BradleyTerry(centring=0.1), Regression()])
def test_micro_batches_of_pairs_weigh_as_the_whole(objective):
    head, rows = model(), batch(0.5, 0.0, -1.0, 0.0, 2.0, 0.0)
    whole, _ = objective(head, rows)
    parts = [(objective(head, part)[0], part.weight) for part in rows.split(2)]
    torch.testing.assert_close(sum(loss * weight for loss, weight in parts) / rows.weight, whole)


def test_the_loss_stays_finite_where_rewards_are_far_apart():
    head, rows = model(), batch(0.0, 0.0)
    with torch.no_grad():
        head.score.weight.mul_(1e6)
    loss, _ = BradleyTerry()(head, rows)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("at_once", [8, 40, 10**6])
def test_scores_are_those_of_each_answer_alone(at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reward, "TOKENS_AT_ONCE", at_once)
    head, generator = model(), torch.Generator().manual_seed(4)
    answered = [torch.randint(V, (n,), generator=generator).tolist() for n in (3, 17, 1, 9, 17, 8)]
    expected = torch.stack([head(torch.tensor([ids]))[0, -1, 0] for ids in answered])
    found = score(head, answered)
    assert found.shape == (6,)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert score(head, []).shape == (0,)


def test_what_cannot_be_scored_is_told():
    with pytest.raises(ValueError, match="rewards need a head of one label, got 2"):
        score(model(STEPS), [[1, 2]])
    with pytest.raises(ValueError, match="without tokens"):
        score(model(), [[1], []])
    with pytest.raises(UserError, match="65 tokens in a row, but the model's context is 64"):
        score(model(), [[1] * 65])


def test_the_head_is_read_out_in_float32_also_under_autocast():
    head, rows = model(), batch(1.0, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head.at(rows.tokens, rows.positions, rows.scored)
        hidden = head.model(rows.tokens, rows.positions)[:, -1]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.linear(hidden.float(), head.score.weight), atol=1e-6, rtol=1e-6)
    loss, _ = BradleyTerry()(head, rows)
    assert torch.isfinite(loss)
