"""Several optimizers that travel as one: Muon for the matrices beside AdamW for the rest.

It shares its parameter groups and its state with the members, so torch's own state_dict covers them all, and a rate set
in a group is the member's rate.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch.optim.optimizer import Optimizer


class Combined(Optimizer):
    """One optimizer from several. ValueError where two of them have the same parameter."""

    def __init__(self, members: Sequence[Optimizer]) -> None:
        super().__init__([group for member in members for group in member.param_groups], {})
        self.members = tuple(members)
        self._share()

    def step(self) -> None:  # type: ignore[override]
        """One step of every member."""
        for member in self.members:
            member.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, for all members; ValueError where the groups differ."""
        super().load_state_dict(state_dict)
        self._share()  # torch has put new groups and a new state in place

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for member in self.members:
            member.param_groups = list(islice(groups, len(member.param_groups)))
            member.state = self.state
