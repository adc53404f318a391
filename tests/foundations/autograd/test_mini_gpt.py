"""The mini-GPT against its torch twin: logits, gradients, and fifty losses on real text from the same weights."""

import math
import pydoc_data.topics

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vesalius.foundations.autograd.mini_gpt import MiniGPT, MiniGPTConfig, draw_batches, train
from vesalius.foundations.autograd.normalising import cross_entropy
from vesalius.foundations.autograd.optim import SGD, AdamW

TEXT = np.frombuffer("".join(pydoc_data.topics.topics.values()).encode(), np.uint8)
CONFIG = MiniGPTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32)


class TwinAttention(nn.Module):
    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class TwinBlock(nn.Module):
    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.norm1, self.attention = nn.LayerNorm(D), TwinAttention(config)
        self.norm2, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Twin(nn.Module):
    """The model as torch's users write it; parameters have our names."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(TwinBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, ids):
        x = self.embed(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.T


def twins() -> tuple[MiniGPT, Twin]:
    """Ours and torch's with the same weights."""
    model, twin = MiniGPT(CONFIG, np.random.default_rng(0)), Twin(CONFIG)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in model.state().items()})
    return model, twin


def batches(seed: int):
    return draw_batches(TEXT, 4, 32, np.random.default_rng(seed))


def twin_losses(twin: Twin, optimizer, steps: int) -> list[float]:
    losses = []
    for _, (inputs, targets) in zip(range(steps), batches(1), strict=False):
        logits = twin(torch.from_numpy(inputs.astype(np.int64)))
        loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets.astype(np.int64)).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_logits_and_gradients_are_the_twins():
    model, twin = twins()
    inputs, targets = next(batches(2))
    logits = model(inputs)
    expected = twin(torch.from_numpy(inputs.astype(np.int64)))
    np.testing.assert_allclose(logits.data, expected.detach().numpy(), rtol=0, atol=1e-5)
    cross_entropy(logits, targets).backward()
    F.cross_entropy(expected.flatten(0, 1), torch.from_numpy(targets.astype(np.int64)).flatten()).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in twin.named_parameters()}
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad.data, gradients[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: AdamW(p, 1e-3), lambda p: torch.optim.AdamW(p, 1e-3)),
        (lambda p: SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    ],
    ids=["adamw", "sgd"],
)
def test_fifty_losses_on_real_text_are_the_twins(ours, theirs):
    model, twin = twins()
    losses = list(train(model, ours(model.parameters()), batches(1), steps=50))
    expected = twin_losses(twin, theirs(twin.parameters()), 50)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
    assert losses[0] == pytest.approx(math.log(256), abs=0.2)
    assert losses[-1] < losses[0] - 1.5


def test_fifty_losses_in_float64_are_the_twins_at_a_high_rate():
    """There Adam divides small gradients by themselves, and torch in float32 leaves torch in float64 by 4e-4."""
    model, twin = twins()
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    twin.double()
    losses = list(train(model, AdamW(model.parameters(), 3e-3), batches(1), steps=50))
    expected = twin_losses(twin, torch.optim.AdamW(twin.parameters(), 3e-3), 50)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-10)


def test_no_position_sees_what_comes_after_it():
    model, _ = twins()
    inputs, _ = next(batches(3))
    changed = inputs.copy()
    changed[:, 20:] += 1
    np.testing.assert_array_equal(model(inputs).data[:, :20], model(changed).data[:, :20])


def test_targets_are_inputs_one_further_on():
    inputs, targets = next(draw_batches(np.arange(100), 3, 8, np.random.default_rng(0)))
    assert inputs.shape == (3, 8)
    np.testing.assert_array_equal(targets, inputs + 1)


def test_too_little_text_is_refused():
    with pytest.raises(ValueError, match="a context of 8 needs at least 9 ids, got 8"):
        next(draw_batches(np.arange(8), 3, 8, np.random.default_rng(0)))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a hidden_size of 64"):
        MiniGPTConfig(num_attention_heads=3)
