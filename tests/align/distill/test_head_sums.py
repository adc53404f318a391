"""A loss over chunks of logits is the loss over all of them at once, with its gradients, whatever the head."""

import pytest
import torch
from torch import Tensor, nn

from vesalius.align.distill.head_sums import head_sums
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.train import head_chunks

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
WANTED = torch.randn(50, 70, generator=torch.Generator().manual_seed(0))


def loss_of(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Depends on the logits in no simple way, and on which positions these are of."""
    log_p = logits.log_softmax(-1)
    loss = (log_p.exp() * WANTED[part] + log_p.sigmoid() ** 2).sum()
    return loss, torch.stack((loss * 2, torch.tensor(float(len(logits)))))


@pytest.fixture(params=["plain", "capped", "scaled", "replaced"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transformer:
    monkeypatch.setattr(head_chunks, "MIN_ROWS", 7)
    monkeypatch.setattr(head_chunks, "CHUNK_BYTES", 1)
    settings = {"capped": {"final_logit_softcapping": 2.0}, "scaled": {"logits_scaling": 3.0}}.get(request.param, {})
    model = Transformer(
        ModelConfig(vocab_size=70, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **settings)
    )
    if request.param == "replaced":
        model.lm_head = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 70))
    return model


def test_sums_and_gradients_are_those_of_all_logits_at_once(model: Transformer) -> None:
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)) * 5
    found = []
    for chunked in (True, False):
        model.zero_grad()
        hidden = x.clone().requires_grad_()
        loss, others = head_sums(model, hidden, loss_of) if chunked else loss_of(model.logits(hidden), slice(None))
        (loss * 0.7).backward()
        found.append([loss, others, hidden.grad, *(p.grad for p in model.lm_head.parameters())])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, **CLOSE)


def test_without_gradients_the_sums_are_the_same(model: Transformer) -> None:
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        silent = head_sums(model, x, loss_of)
    torch.testing.assert_close(silent, head_sums(model, x, loss_of))


def test_a_frozen_head_gets_no_gradient(model: Transformer) -> None:
    model.lm_head.requires_grad_(False)
    hidden = torch.randn(50, 16).requires_grad_()
    head_sums(model, hidden, loss_of)[0].backward()
    assert hidden.grad is not None
    assert all(parameter.grad is None for parameter in model.lm_head.parameters())
