"""What stands in a model for float weights that it does not have: frozen, smaller, and floats when asked for."""

import torch
from torch import Tensor, nn


class PackedModule(nn.Module):
    """A linear layer, an embedding or a stack of experts over packed weights. There is no `weight`: who wants the
    values asks `dequantise()`, and who wants to know where it lives its `device` and `dtype`."""

    dtype = torch.float32  # of the values that it stands for
    packed_names: tuple[str, ...] = ()  # of frozen parameters that are no weights of a float model

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return torch.device("cpu")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the float weights that it stands for."""
        raise NotImplementedError

    def dequantise(self) -> Tensor:
        """The weights as float32 of `shape`, freshly made."""
        raise NotImplementedError
