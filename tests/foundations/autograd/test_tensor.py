"""What the tensor engine promises beside right gradients: histories, writing in place, freeing, plain errors."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch

from vesalius.foundations.autograd.normalising import softmax
from vesalius.foundations.autograd.tensor import Tensor, grad, no_grad


def leaf(*numbers: float) -> Tensor:
    return Tensor(np.array(numbers, np.float64), requires_grad=True)


def test_gradients_add_up_in_leaves_until_they_are_forgotten():
    x = leaf(1, 2)
    (x * 3).sum().backward()
    (x * x).sum().backward()
    assert x.grad.data.tolist() == [5.0, 7.0]
    x.zero_grad()
    assert x.grad is None


def test_no_two_leaves_share_their_gradient():
    """A sum passes the same array to both."""
    x, y = leaf(1, 2), leaf(3, 4)
    (x + y).sum().backward()
    x.grad.data *= 5
    assert y.grad.data.tolist() == [1.0, 1.0]


def test_results_in_the_middle_have_gradients_on_request():
    x = leaf(1, 2)
    y = x * 3
    assert grad((y * y).sum(), [y])[0].data.tolist() == [6.0, 12.0]
    assert x.grad is None


def test_third_derivatives():
    x = Tensor(2.0, requires_grad=True)
    value = np.sin(x) * x**4
    for _ in range(2):
        (value,) = grad(value, [x], create_graph=True)
    (third,) = grad(value, [x])
    twin = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    expected = torch.sin(twin) * twin**4
    for _ in range(3):
        (expected,) = torch.autograd.grad(expected, [twin], create_graph=True)
    assert third.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_gradients_norm_can_be_a_loss():
    """As in penalties of gradients, by `backward` with create_graph."""
    x = leaf(1, 2, 3)
    softmax(x)[0].backward(create_graph=True)
    first = x.grad
    x.zero_grad()
    (first * first).sum().backward()
    twin = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(torch.softmax(twin, 0)[0], [twin], create_graph=True)
    (expected,) = torch.autograd.grad((g * g).sum(), [twin])
    np.testing.assert_allclose(x.grad.data, expected.numpy(), rtol=1e-10)


def test_numpys_functions_and_operators_record():
    x = leaf(1, 2)
    assert (2 * np.exp(x) - x / 2).requires_grad
    assert (np.array([1.0, 1.0]) @ x).requires_grad
    assert np.sum(np.array([1.0, 1.0]) * x).requires_grad


def test_comparisons_give_plain_arrays():
    assert (leaf(1, 2) > 1.5).tolist() == [False, True]


def test_nothing_is_recorded_without_grad():
    x = leaf(1, 2)
    with no_grad():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_not_recording_is_a_matter_of_one_thread():
    seen = []
    x = leaf(1, 2)
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_detached_tensor_has_no_history():
    x = leaf(1, 2)
    assert not (x * 2).detach().requires_grad


def test_gradients_have_their_inputs_type():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    (x * np.ones(2)).sum().backward()
    assert x.grad.dtype == np.float32


def test_only_what_a_gradient_needs_is_kept():
    """A sum needs neither summand; a product with a constant needs the constant alone."""
    x = leaf(1, 2)
    middle = x * 3
    watched = weakref.ref(middle.data)
    result = (middle + 1) * 2
    del middle
    assert watched() is None
    result.sum().backward()
    assert x.grad.data.tolist() == [6.0, 6.0]


def test_a_graph_is_freed_without_the_garbage_collector():
    x = leaf(1, 2)
    middle = np.exp(x)
    watched = weakref.ref(middle.data)
    out = np.exp(softmax(middle))  # each of the three saves a result of its own
    del middle
    assert watched() is not None
    gc.disable()
    try:
        del out
        assert watched() is None
    finally:
        gc.enable()


class TestFreedGraphs:
    def test_a_second_backward_is_refused_by_name(self):
        x = leaf(1, 2)
        loss = np.exp(x).sum()
        loss.backward()
        with pytest.raises(ValueError, match=r"gradient of exp is asked for a second time.*retain_graph=True"):
            loss.backward()

    def test_a_retained_graph_can_be_asked_again(self):
        x = leaf(0, 0)
        loss = np.exp(x).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        assert x.grad.data.tolist() == [2.0, 2.0]


class TestWritingInPlace:
    def test_a_written_result_has_the_gradient_of_what_was_written(self):
        x, twin = leaf(1, 2), torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        y, other = x * 2, twin * 2
        y += x
        y *= 3
        other += twin
        other *= 3
        (y * y).sum().backward()
        (other * other).sum().backward()
        np.testing.assert_allclose(x.grad.data, twin.grad.numpy(), rtol=1e-12)

    def test_setting_items_cuts_the_gradient_of_what_was_there(self):
        x, value = leaf(1, 2, 3), leaf(5, 6)
        y = x * x
        y[1:] = value
        y[0] = y[0] * 2
        y.sum().backward()
        assert x.grad.data.tolist() == [4.0, 0.0, 0.0]
        assert value.grad.data.tolist() == [1.0, 1.0]

    def test_a_constant_takes_up_history(self):
        buffer, x = Tensor(np.zeros(3)), leaf(4, 5)
        buffer[:2] = x
        (buffer * buffer).sum().backward()
        assert x.grad.data.tolist() == [8.0, 10.0]

    def test_overwriting_what_a_gradient_needs_is_refused_by_name(self):
        x = leaf(1, 2)
        y = x * 2
        loss = (y * y).sum()
        y += 1
        with pytest.raises(ValueError, match=r"gradient of multiply needs .* but add has since changed it in place"):
            loss.backward()

    def test_overwriting_what_no_gradient_needs_is_fine(self):
        x = leaf(1, 2)
        y = x * 2
        loss = (y + 1).sum()
        y += 1
        loss.backward()
        assert x.grad.data.tolist() == [2.0, 2.0]

    def test_overwriting_through_a_view_is_seen(self):
        x = leaf(1, 2)
        y = x * 2
        loss = (y * y).sum()
        view = y[:1]
        view *= 0
        with pytest.raises(ValueError, match="gradient of multiply needs"):
            loss.backward()
        with pytest.raises(ValueError, match="shares memory that multiply has since written"):
            _ = y + 1

    def test_a_view_from_before_a_write_is_refused(self):
        x = leaf(1, 2)
        y = x * 2
        view = y.T
        y += x
        with pytest.raises(ValueError, match="take the view again"):
            _ = view * 2
        (y.T * 2).sum().backward()
        assert x.grad.data.tolist() == [6.0, 6.0]

    def test_a_detached_alias_is_seen_too(self):
        x = leaf(1, 2)
        y = x * 2
        loss = (y * y).sum()
        alias = y.detach()
        alias += 1
        with pytest.raises(ValueError, match="but add has since changed it"):
            loss.backward()

    def test_leaves_are_written_without_recording_only(self):
        x = leaf(1, 2)
        with pytest.raises(ValueError, match=r"leaf that requires a gradient: do it within no_grad\(\)"):
            x += 1
        with no_grad():
            x += 1
        assert x.data.tolist() == [2.0, 3.0]
        assert x.requires_grad

    def test_a_step_between_forward_and_backward_is_seen(self):
        x = leaf(1, 2)
        loss = (x * x).sum()
        with no_grad():
            x -= 0.1
        with pytest.raises(ValueError, match="but subtract has since changed it"):
            loss.backward()

    def test_shapes_stay(self):
        y = leaf(1, 2) * 2
        with pytest.raises(ValueError, match=r"must keep the shape \(2,\), got \(3, 2\)"):
            y += np.ones((3, 2))

    def test_a_plain_array_takes_up_no_history(self):
        array = np.zeros(2)
        with pytest.raises(ValueError, match="no history"):
            array += leaf(1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tensor([1, 2], requires_grad=True), "only floating-point tensors have gradients, got int64"),
        (lambda: Tensor(leaf(1, 2)), r"holds real numbers, got object: of a tensor, pass its \.data"),
        (lambda: (leaf(1, 2) * 2).backward(), r"shape \(2,\) is no single loss"),
        (lambda: (leaf(1, 2) * 2).backward(np.ones(3)), r"output's shape \(2,\), got \(3,\)"),
        (lambda: Tensor(1.0).backward(), "has no history"),
        (lambda: grad(leaf(1).sum(), [leaf(1)]), "does not depend on input 0"),
        (lambda: np.arctan(leaf(1)), "np.arctan has no gradient here"),
        (lambda: np.median(leaf(1)), "np.median has no gradient here"),
        (lambda: np.add.reduce(leaf(1)), "only plain calls"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_graph_deeper_than_pythons_recursion_is_walked():
    x = total = leaf(1)
    for _ in range(20_000):
        total = total + x
    total.backward()
    assert x.grad.data.tolist() == [20_001.0]
