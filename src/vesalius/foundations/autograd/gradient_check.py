"""Are the gradients right? Ask the function itself, twice per number.

The derivative along one coordinate is (f(x + h) - f(x - h)) / 2h up to terms in h². What is lost is rounding,
ε |f| / h, and truncation, h² |f'''| / 6: together least near h = ε^(1/3), 6e-6 in float64, where about ten digits
remain. It costs two evaluations for every number, so it is a test and not a way to train.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vesalius.foundations.autograd.tensor import Tensor, grad, no_grad

STEP = float(np.cbrt(np.finfo(np.float64).eps))


def numerical_gradient(
    function: Callable[..., Tensor], inputs: Sequence[NDArray[np.float64]], place: int
) -> NDArray[np.float64]:
    """The gradient of `function(*tensors)`, a single number, by the input at `place`, by central differences."""
    arrays = [np.array(x, dtype=np.float64) for x in inputs]
    x = arrays[place]
    gradient = np.empty_like(x)
    with no_grad():
        for i in np.ndindex(x.shape):
            middle = x[i]
            x[i] = middle + STEP
            above = function(*map(Tensor, arrays)).item()
            x[i] = middle - STEP
            below = function(*map(Tensor, arrays)).item()
            x[i] = middle
            gradient[i] = (above - below) / (2 * STEP)
    return gradient


def check_gradients(
    function: Callable[..., Tensor], inputs: Sequence[NDArray[np.float64]], *, tolerance: float = 1e-6
) -> float:
    """The largest difference between our gradients and numerical ones, relative where they exceed 1.

    `function` takes a tensor for each input and gives a tensor of one number. ValueError above the tolerance.

    >>> check_gradients(lambda x: (x * x).sum(), [np.array([1.0, -2.0])]) < 1e-8
    True
    """
    tensors = [Tensor(np.array(x, dtype=np.float64), requires_grad=True) for x in inputs]
    worst = 0.0
    for place, ours in enumerate(grad(function(*tensors), tensors)):
        numerical = numerical_gradient(function, inputs, place)
        difference = np.abs(ours.data - numerical) / np.maximum(1, np.abs(numerical))
        worst = max(worst, float(difference.max(initial=0.0)))
        if not worst <= tolerance:
            raise ValueError(
                f"the gradient of input {place} is off by {worst:.2g}, more than {tolerance}: its rule is wrong, or "
                "the function has a kink nearby"
            )
    return worst
