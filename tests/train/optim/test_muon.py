"""Muon against torch.optim.Muon, and its orthogonalisation against the singular value decomposition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.train.optim.muon import Muon, orthogonalize

SHAPES = [(16, 16), (24, 16), (16, 24), (16, 16), (8, 40), (24, 16)]
SCALES = ["original", "match_rms_adamw"]


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in SHAPES]


def run(make, steps=25):
    parameters = weights()
    optimizer = make(parameters)
    for step in range(steps):
        generator = torch.Generator().manual_seed(100 + step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator) + 0.1 * parameter.detach()
        optimizer.step()
    return parameters


@pytest.mark.parametrize("scale", SCALES)
def test_equals_torch_where_both_compute_in_float32(monkeypatch, scale):
    """torch's always iterates in bfloat16: its cast is made to keep float32, the rest of it is untouched."""
    ours = run(lambda p: Muon(p, lr=0.02, momentum=0.95, weight_decay=0.1, scale=scale))
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.float().clone())
    theirs = run(lambda p: torch.optim.Muon(p, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn=scale))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_equals_torch_in_bfloat16(scale):
    """One step, within one rounding of a bfloat16 update: lr · scale · 2⁻⁷ with scale below 1.3."""
    ours = run(lambda p: Muon(p, lr=0.02, momentum=0.95, weight_decay=0.1, scale=scale, ns_dtype="bfloat16"), steps=1)
    theirs = run(lambda p: torch.optim.Muon(p, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn=scale), steps=1)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0.02 * 1.3 * 2**-7)


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(8, 8), (8, 12), (40, 5)]), st.floats(1e-6, 1e6))
def test_same_singular_vectors_and_values_near_1(seed, shape, size):
    matrix = size * torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    u, s, vt = torch.linalg.svd(matrix[0], full_matrices=False)
    result = u.mT @ orthogonalize(matrix)[0] @ vt.mT  # diagonal where the vectors are kept
    values = result.diagonal()
    torch.testing.assert_close(result, torch.diag(values), rtol=0, atol=2e-4)
    large = s > 0.02 * s.norm()  # five steps do not lift smaller ones all the way
    assert (values[large] > 0.6).all()
    assert (values < 1.25).all()


def test_a_zero_gradient_only_decays():
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    parameter.grad = torch.zeros(3, 4)
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(parameter.detach(), torch.full((3, 4), 0.95))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(3, 8, 12), (3, 12, 8)])
def test_a_stack_of_experts_moves_as_each_expert_by_itself(scale, shape):
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(2, *shape, generator=generator)
    stacks = [torch.nn.Parameter(stack.clone()) for stack in start]
    experts = [torch.nn.Parameter(expert.clone()) for expert in start.flatten(0, 1)]
    together, alone = Muon(stacks, lr=0.02, scale=scale), [Muon([expert], lr=0.02, scale=scale) for expert in experts]
    for _ in range(3):
        gradients = torch.randn(2, *shape, generator=generator) * torch.tensor([1.0, 9.0, 1e-3]).view(3, 1, 1)
        for parameter, gradient in [
            *zip(stacks, gradients, strict=True),
            *zip(experts, gradients.flatten(0, 1), strict=True),
        ]:
            parameter.grad = gradient.clone()
        for optimizer in (together, *alone):
            optimizer.step()
    torch.testing.assert_close(torch.stack([*stacks]).flatten(0, 1), torch.stack(experts), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2, 2)])
def test_only_matrices_and_stacks_of_them(shape):
    with pytest.raises(ValueError, match="Muon needs matrices or stacks of them, got shape"):
        Muon([torch.nn.Parameter(torch.zeros(shape))])
