"""A model without weights: every large tensor is on the device "meta", which has shapes and no memory.

Not by `torch.device("meta")`: under it the model's own small computations (rotary frequencies, ALiBi slopes) would have
no values either, and the first of them imports torch's compiler, which takes longer than reading a checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer


def blank_model(config: ModelConfig) -> Transformer:
    """The model in evaluation mode: weights of matrices have shapes only, buffers have their values."""
    with _Blank():
        return Transformer(config).eval()


class _Blank(TorchFunctionMode):
    """What torch's layers allocate (`torch.empty`) goes to "meta", and what would fill it does nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":  # built-in ones have no module
            return args[0] if args else (kwargs or {})["tensor"]
        if func is torch.empty:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))
