"""Losses and gradients equal TRL's GKDTrainer on the same two models and the same batch, to 1e-5 in float32."""

import pytest
import torch
from align.talks import CONTEXT, encoded_talks
from align.tiny_models import model_for
from trl.experimental.gkd import GKDTrainer

from vesalius.align.distill.objective import Distill, DistillNumbers
from vesalius.align.sft.sft import PackedConversations
from vesalius.data.batch import Batch
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.3}
"""TRL tells the divergences by their β alone."""


@pytest.fixture(scope="module")
def batch(tokenizer: Tokenizer) -> Batch:
    return next(PackedConversations(encoded_talks(tokenizer), batch_rows=3, context=CONTEXT, seed=0))


@pytest.fixture(scope="module")
def teacher(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer, seed=1, hidden_size=48).eval().requires_grad_(False)


def gradients(model: Transformer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", BETAS)
def test_loss_and_gradients_are_trl_s(
    divergence: str, temperature: float, tokenizer: Tokenizer, batch: Batch, teacher: Transformer
) -> None:
    student = model_for(tokenizer)
    numbers = DistillNumbers(divergence=divergence, beta=BETAS["jsd"], temperature=temperature)
    loss, _ = Distill(teacher, numbers)(student, batch)
    ours = gradients(student, loss)
    their_loss = GKDTrainer.generalized_jsd_loss(
        student(batch.tokens, batch.positions),
        teacher(batch.tokens, batch.positions),
        labels=batch.targets,
        beta=BETAS[divergence],
        temperature=temperature,
    )
    torch.testing.assert_close(loss, their_loss, **CLOSE)
    for name, gradient in gradients(student, their_loss).items():
        torch.testing.assert_close(ours[name], gradient, **CLOSE)


def test_a_single_row_without_packing_goes_through_trl_s_own_compute_loss(
    tokenizer: Tokenizer, batch: Batch, teacher: Transformer
) -> None:
    """Theirs shifts the labels itself: what it compares at each position is what ours has at it."""
    start = int((batch.positions[0][1:] == 0).nonzero()[0]) + 1
    alone = Batch(tokens=batch.tokens[:1, :start], targets=batch.targets[:1, :start])

    class Output:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    class Wrapped(torch.nn.Module):
        def __init__(self, model: Transformer) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return Output(self.model(input_ids))

    labels = torch.cat((torch.full((1, 1), -100), alone.targets[:, :-1]), 1)
    trainer = GKDTrainer.__new__(GKDTrainer)
    trainer.teacher_model, trainer.beta = Wrapped(teacher), 0.5
    student = model_for(tokenizer)
    inputs = {"input_ids": alone.tokens, "attention_mask": torch.ones_like(alone.tokens), "labels": labels}
    theirs = trainer.compute_loss(Wrapped(student), inputs)
    ours, _ = Distill(teacher, DistillNumbers(divergence="jsd", beta=0.5))(student, alone)
    torch.testing.assert_close(ours, theirs, **CLOSE)
