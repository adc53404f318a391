"""The states of all global random generators as plain values, so that dropout goes on after a resume as if it never
stopped.
"""

import base64
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def capture(device: str) -> dict[str, Any]:
    """The states of torch's, NumPy's, Python's and, where it isn't the CPU, the device's generator, JSON-able."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "torch": _pack(torch.get_rng_state()),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }
    if device != "cpu":
        states["device"] = _pack(torch.get_device_module(device).get_rng_state())
    return states


def restore(states: dict[str, Any], device: str) -> None:
    """Puts the generators back where `capture` found them."""
    torch.set_rng_state(_unpack(states["torch"]))
    np.random.set_state(tuple(states["numpy"]))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if device != "cpu" and "device" in states:
        torch.get_device_module(device).set_rng_state(_unpack(states["device"]))


def _pack(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _unpack(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
