"""The adapters of an engine's model: each sequence may have one, and sequences with different ones share every step
(Sheng et al. 2023, S-LoRA, arXiv:2311.03285, section 4, without its kernel for many of them).

A step in which nobody has an adapter runs the model as it was before any was put around it, with every faster way
through it; else the layers run as they are built, and each row of tokens goes through its own adapter. A model whose
adapters are in use for every text (adapt/switch) is as before: there is nothing to choose then.
"""

import contextlib
from collections.abc import Hashable, Iterator, Sequence

from vesalius.adapt.switch import adapter_names, is_merged, places, switchboard, without
from vesalius.adapt.virtual_tokens import virtual_ids
from vesalius.core.errors import UserError, nearest
from vesalius.models.transformer import Transformer


class Adapters:
    """Those that the model holds when its engine is made."""

    def __init__(self, model: Transformer) -> None:
        self.names = adapter_names(model)
        self._model, self._places, self._board = model, places(model), switchboard(model)

    def check(self, name: str | None) -> None:
        """UserError where a sequence cannot have this adapter."""
        if name is None:
            return
        if name not in self.names:
            raise UserError(f"the model has no adapter {name!r}, {nearest(name, self.names)}")
        if self._board.active or is_merged(self._model):
            raise UserError(
                "the model's adapters are in use for every text, so none can be chosen for one: unmerge and switch "
                "them off first"
            )

    def front(self, name: str | None) -> list[int]:
        """The ids that stand in front of a text with this adapter (adapt/virtual_tokens)."""
        return virtual_ids(self._model, None if name is None else (name,))

    def root(self, name: str | None) -> Hashable:
        """What tells apart texts whose keys and values differ though their tokens are the same."""
        return self._board.active or None if name is None else (name,)

    @contextlib.contextmanager
    def by_row(self, names: Sequence[str | None], counts: Sequence[int]) -> Iterator[None]:
        """Within, the model reads so many rows of tokens with each of these adapters, one stretch behind another."""
        if not self.names or self._board.active:
            yield
        elif not any(names):
            with without(self._places):
                yield
        else:
            rows = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
            self._board.route(rows, next(self._model.parameters()).device)
            try:
                yield
            finally:
                self._board.unroute()
