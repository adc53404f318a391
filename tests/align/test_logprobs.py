"""Log-probabilities and entropies by chunks equal torch's log_softmax of all logits, forward and backward."""

import pytest
import torch
from torch import nn

from vesalius.align.logprobs import hidden_logprobs_and_entropy, token_logprobs
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.train import head_chunks

B, T, V = 3, 60, 40
EXACT = {"atol": 2e-6, "rtol": 1e-5}
"""float32: the same sums, blocked differently."""


@pytest.fixture(params=[1, 10**9], ids=["many chunks", "one chunk"], autouse=True)
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_chunks, "CHUNK_BYTES", request.param)
    monkeypatch.setattr(head_chunks, "MIN_ROWS", 32)


def tiny(**changes) -> Transformer:
    sizes = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Transformer(ModelConfig.from_dict(sizes | changes))
    nn.init.normal_(model.lm_head.weight, std=0.5)
    return model


def rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens, targets = (torch.randint(V, (B, T), generator=generator) for _ in range(2))
    targets[torch.rand(B, T, generator=generator) < 0.3] = IGNORE
    return tokens, targets


def at_once(model, tokens, targets, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    log_p = (model(tokens) / temperature).log_softmax(-1)
    wanted = targets != IGNORE
    chosen = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return chosen * wanted, torch.distributions.Categorical(logits=log_p).entropy() * wanted


def replaced(model: Transformer) -> Transformer:
    """The same model with a head that is not a plain matrix."""
    head = nn.Linear(16, V)
    head.weight, head.bias.data = model.lm_head.weight, torch.zeros(V)
    model.lm_head = head
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    "model",
    [
        tiny(),
        tiny(tie_word_embeddings=True),
        tiny(logits_scaling=2.0, final_logit_softcapping=1.5),
        replaced(tiny(final_logit_softcapping=1.5)),
    ],
    ids=["plain", "tied", "capped", "replaced"],
)
def test_values_and_gradients(model: Transformer, temperature: float) -> None:
    tokens, targets = rows()
    mine = hidden_logprobs_and_entropy(model, model.model(tokens), targets, temperature=temperature)
    truth = at_once(model, tokens, targets, temperature)
    torch.testing.assert_close(mine, truth, **EXACT)
    weights = torch.randn(2, B, T, generator=torch.Generator().manual_seed(1))
    for terms in ((0,), (1,), (0, 1)):
        ours, theirs = (
            torch.autograd.grad(sum((pair[i] * weights[i]).sum() for i in terms), model.parameters(), retain_graph=True)
            for pair in (mine, truth)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_positions_part_the_documents_of_a_row() -> None:
    model, (tokens, targets) = tiny(), rows()
    positions = torch.arange(T).remainder(20).expand(B, T)
    whole = token_logprobs(model, tokens, targets, positions)
    alone = token_logprobs(model, tokens[:, 20:40], targets[:, 20:40])
    torch.testing.assert_close(whole[:, 20:40], alone, **EXACT)


def test_a_frozen_model_gives_values_without_gradients() -> None:
    model, (tokens, targets) = tiny().requires_grad_(False), rows()
    found = token_logprobs(model, tokens, targets)
    assert not found.requires_grad
    torch.testing.assert_close(found, at_once(model, tokens, targets, 1.0)[0], **EXACT)


@pytest.mark.parametrize("model", [tiny(), replaced(tiny())], ids=["plain", "replaced"])
def test_without_targets_all_is_zero(model: Transformer) -> None:
    tokens, _ = rows()
    logp, entropy = hidden_logprobs_and_entropy(model, model.model(tokens), torch.full_like(tokens, IGNORE))
    assert logp.shape == entropy.shape == (B, T)
    assert not logp.any()
    assert not entropy.any()


@pytest.mark.parametrize("model", [tiny(), replaced(tiny())], ids=["plain", "replaced"])
def test_autocast_stays_near_float32(model: Transformer) -> None:
    tokens, targets = rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp = token_logprobs(model, tokens, targets)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp, at_once(model, tokens, targets, 1.0)[0], atol=3e-2, rtol=2e-2)
    logp.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
