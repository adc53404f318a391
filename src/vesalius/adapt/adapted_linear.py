"""A linear layer with adapters around it: y = base(x) + what each adapter in use adds.

One layer may hold any number of adapters by name. Which of them are in use is said by one `Switchboard`, which all
adapted layers of a model hold: either the same for the whole batch (several are summed), or one for each row of tokens,
so that an engine serves many adapters in one step (S-LoRA, arXiv:2311.03285, section 4, without its kernel).
"""

from typing import cast

import torch
from torch import Tensor, nn

from vesalius.adapt.holder import Holder, Switchboard
from vesalius.adapt.targets import LinearLayer, weight_of
from vesalius.kernels.linear import Linear, Wrapped


class LinearAdapter(nn.Module):
    """What one adapter adds to the output of one linear layer. `is_linear`: it is a change of weight and bias."""

    is_linear = True

    def forward(self, x: Tensor, y: Tensor, base: LinearLayer) -> Tensor:
        """x (…, I) and y = base(x) (…, O) -> the change (…, O) in y's dtype."""
        raise NotImplementedError

    def weight_change(self, base: LinearLayer) -> tuple[Tensor, Tensor | None]:
        """The same as a change of the weight (O, I), and of the bias (O,) where that changes too.

        UserError where it is none: what is no linear map cannot be merged.
        """
        raise NotImplementedError


class AdaptedLinear(Wrapped, Holder):
    """x (…, in_features) -> (…, out_features): stands in the place of `base`, whose weights stay as they are."""

    def __init__(self, base: LinearLayer, board: Switchboard) -> None:
        super().__init__()
        self.base = cast(nn.Module, base)
        self.board = board
        self.in_features, self.out_features = base.in_features, base.out_features
        self.adapters = nn.ModuleDict()
        self._unmerged: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no submodule

    @property
    def untouched(self) -> nn.Module:
        return self._unmerged[0] if self._unmerged else self.base

    @property
    def linear(self) -> LinearLayer:
        """The layer as it was before any adapter."""
        return cast(LinearLayer, self.untouched)

    @property
    def is_merged(self) -> bool:
        """Whether `base` holds what the adapters add."""
        return bool(self._unmerged)

    @property
    def weight(self) -> Tensor:
        """(O, I) of the linear map that the layer is now, with gradients for the adapters."""
        return self._whole()[0]

    @property
    def bias(self) -> Tensor | None:
        return self._whole()[1]

    def in_use(self) -> list[LinearAdapter]:
        """The adapters of whole batches."""
        return [cast(LinearAdapter, self.adapters[name]) for name in self.board.active if name in self.adapters]

    def adjust(self, x: Tensor, y: Tensor) -> Tensor:
        if self._unmerged:
            return y
        if self.board.rows is not None:
            return self._adjust_rows(x, y, self.board.rows)
        base, adjusted = self.linear, y
        for adapter in self.in_use():
            adjusted = adjusted + adapter(x, y, base)
        return adjusted

    def _adjust_rows(self, x: Tensor, y: Tensor, rows: dict[str, Tensor]) -> Tensor:
        flat_x, flat_y = x.reshape(-1, self.in_features), y.reshape(-1, self.out_features)
        if len(flat_x) != self.board.count:
            raise ValueError(f"adapters were chosen for {self.board.count} token rows, got {len(flat_x)}")
        adjusted = flat_y
        for name, which in rows.items():
            if name in self.adapters:
                change = self.adapters[name](flat_x[which], flat_y[which], self.linear)
                adjusted = adjusted.index_add(0, which, change)
        return adjusted.view_as(y)

    def _whole(self) -> tuple[Tensor, Tensor | None]:
        if self.board.rows is not None:
            raise ValueError("rows of the batch use different adapters, so the layer is no single matrix")
        base = cast(LinearLayer, self.base)
        weight, bias = weight_of(base), base.bias
        if self._unmerged:
            return weight, bias
        for adapter in self.in_use():
            more, more_bias = adapter.weight_change(base)
            weight = weight + more.to(weight.dtype)
            bias = bias if bias is None or more_bias is None else bias + more_bias.to(bias.dtype)
        return weight, bias

    @torch.no_grad()
    def merge(self) -> None:
        """Puts a plain layer with all that is in use in the place of `base`, which is kept aside."""
        weight, bias = self._whole()
        self._unmerged = (self.base,)
        self.base = plain_layer(weight, bias).train(self.training)

    def unmerge(self) -> None:
        """Puts the untouched layer back: bit for bit, since it was kept."""
        self.base = self.untouched
        self._unmerged = ()


def plain_layer(weight: Tensor, bias: Tensor | None) -> Linear:
    """A frozen linear layer with copies of these numbers."""
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
