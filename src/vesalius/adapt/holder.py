"""What stands in the place of a part of a model and holds adapters by name, and the board that says which are used.

Every holder knows the part that stood there before, so that the model can be its base again at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Switchboard:
    """Which adapters the holders of a model use; they all hold the same one.

    active  those in use for whole batches; their changes are summed
    rows    adapter -> numbers of the token rows (of B · T) that use it; None: all rows use `active`
    count   rows that `rows` was made for
    """

    active: tuple[str, ...] = ()
    rows: dict[str, Tensor] | None = field(default=None, repr=False)
    count: int = 0

    def route(self, names: Sequence[str | None], device: torch.device | str = "cpu") -> None:
        """From here on row i of B · T token rows uses the adapter names[i], or none."""
        numbers: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if name is not None:
                numbers.setdefault(name, []).append(row)
        self.rows = {name: torch.tensor(rows, device=device) for name, rows in numbers.items()}
        self.count = len(names)

    def unroute(self) -> None:
        """Whole batches use `active` again."""
        self.rows, self.count = None, 0


class Holder:
    """A module that stands in the place of another and holds adapters by name. With the last of them it goes."""

    adapters: nn.ModuleDict
    board: Switchboard

    @property
    def untouched(self) -> nn.Module:
        """The module that stood there before any adapter."""
        raise NotImplementedError
