"""Every global generator goes on from where it was, through JSON."""

import json
import random

import numpy as np
import pytest
import torch

from vesalius.train import random_states

DRAWS = {
    "torch": lambda: torch.rand(3).tolist(),
    "torch normal": lambda: torch.randn(3).tolist(),
    "numpy": lambda: np.random.standard_normal(3).tolist(),
    "python": lambda: [random.gauss(0, 1) for _ in range(3)],
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_numbers_come_again(name):
    DRAWS[name]()  # an odd number of normal draws leaves one waiting
    stored = json.dumps(random_states.capture("cpu"))
    first = DRAWS[name]()
    random_states.restore(json.loads(stored), "cpu")
    assert DRAWS[name]() == first
