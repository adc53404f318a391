"""Distances of hidden states against transformers' and torch's, what learns by them, and what is left as it was."""

import pytest
import torch
from align.tiny_models import model_for
from torch.nn import functional as F

from vesalius.align.distill.hidden_matching import HiddenMatching, Matched, behind_layers, even_pairs
from vesalius.align.distill.objective import Distill
from vesalius.data.batch import IGNORE, Batch
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def teacher(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer, seed=1, hidden_size=48, num_hidden_layers=4).eval().requires_grad_(False)


@pytest.fixture
def bundle(tokenizer: Tokenizer, teacher: Transformer) -> Matched:
    return Matched(model_for(tokenizer), teacher, even_pairs(2, 4), seed=0)


def states(model: Transformer, batch: Batch) -> list[torch.Tensor]:
    """Behind each layer, where there is a target, computed layer by layer: each of them is a model that ends there."""
    found = []
    layers, norm = model.model.layers, model.model.norm
    for count in range(1, len(layers) + 1):
        model.model.layers, model.model.norm = layers[:count], torch.nn.Identity()
        found.append(model.model(batch.tokens, batch.positions)[batch.targets != IGNORE])
        model.model.layers, model.model.norm = layers, norm
    return found


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_the_loss_is_the_distance_of_projected_states(
    distance: str, bundle: Matched, teacher: Transformer, batch: Batch
) -> None:
    weight, plain = 0.7, Distill(teacher)(bundle.student, batch)[0]
    loss, metrics = HiddenMatching(Distill(teacher), weight, distance)(bundle, batch)
    with torch.no_grad():
        ours, theirs = states(bundle.student, batch), states(teacher, batch)
    apart = []
    for (a, b), projection in zip([(0, 1), (1, 3)], bundle.projections, strict=True):
        mapped = ours[a] @ projection.weight.T
        plainly = (
            F.mse_loss(mapped, theirs[b]) if distance == "mse" else 1 - F.cosine_similarity(mapped, theirs[b]).mean()
        )
        apart.append(plainly)
    expected = torch.stack(apart).mean()
    torch.testing.assert_close(metrics["hidden"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, plain + weight * expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(metrics["distilled"], plain)


def test_student_and_projections_learn_and_the_teacher_does_not(
    bundle: Matched, teacher: Transformer, batch: Batch
) -> None:
    HiddenMatching(Distill(teacher), 1.0)(bundle, batch)[0].backward()
    assert all(parameter.grad is not None for parameter in bundle.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_where_there_is_no_target_nothing_is_matched(bundle: Matched, teacher: Transformer, batch: Batch) -> None:
    """The gradient of the last hidden states is 0 there."""
    kept = []
    hook = bundle.student.model.layers[1].register_forward_hook(lambda *call: kept.append(call[-1]))
    loss, _ = HiddenMatching(Distill(teacher), 1.0)(bundle, batch)
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, kept[0])
    assert torch.equal(gradient.abs().sum(-1) > 0, batch.targets != IGNORE)


def test_a_projection_between_equal_widths_begins_as_the_identity(tokenizer: Tokenizer, batch: Batch) -> None:
    same = model_for(tokenizer, seed=1).eval().requires_grad_(False)
    bundle = Matched(model_for(tokenizer, seed=1), same, even_pairs(2, 2), seed=0)
    assert HiddenMatching(Distill(same), 1.0, "mse")(bundle, batch)[1]["hidden"].item() < 1e-9  # rounding


def test_hooks_are_gone_afterwards(bundle: Matched, teacher: Transformer, batch: Batch) -> None:
    HiddenMatching(Distill(teacher), 1.0)(bundle, batch)
    with behind_layers(bundle.student, [1]) as found:
        bundle.student(batch.tokens, batch.positions)
    assert list(found) == [1]
    bundle.student(batch.tokens, batch.positions)
    for model in (bundle.student, teacher):
        assert not any(layer._forward_hooks for layer in model.model.layers)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [(1, 5, [4]), (3, 3, [0, 1, 2]), (2, 5, [2, 4]), (4, 6, [1, 2, 4, 5]), (4, 2, [0, 0, 1, 1])],
)
def test_layers_are_paired_with_those_as_far_through(ours: int, theirs: int, expected: list[int]) -> None:
    assert even_pairs(ours, theirs) == list(enumerate(expected))
