"""The record of a computation, and the walk back through it.

A `Node` is one operation that was carried out; its sources are the nodes that made its inputs, and a `Leaf` where an
input was given from outside: there gradients arrive. Every node is deeper than its sources, so going from the deepest
upwards meets each node after all that used it: a topological order for the price of one sort.

Nodes hold their sources and tensors hold their node, never the other way, so a graph that nobody holds is freed at once
and not when the garbage collector next comes by.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from vesalius.foundations.autograd.operation import OUT, Numeric, Operation, unbroadcast


class Version:
    """How often some memory was written in place; tensors that share the memory share this."""

    __slots__ = ("by", "count", "recorded")

    def __init__(self) -> None:
        self.count = 0
        self.recorded = 0  # the count at the latest write that has a gradient
        self.by = ""  # the operation that wrote last

    def bump(self, by: str) -> None:
        """Notes a write by the operation of that name."""
        self.count += 1
        self.by = by


class Saved:
    """Numbers that a rule wants, and the version that it wants them in."""

    __slots__ = ("count", "data", "version")

    def __init__(self, data: NDArray[Any], version: Version | None) -> None:
        self.data = data
        self.version = version
        self.count = version.count if version else 0

    def current(self, operation: str) -> NDArray[Any]:
        """The numbers. ValueError where they were overwritten."""
        if self.version is not None and self.version.count != self.count:
            raise ValueError(
                f"the gradient of {operation} needs a tensor of shape {self.data.shape} as it was, "
                f"but {self.version.by} has since changed it in place: write the result to a new tensor"
            )
        return self.data


class Leaf:
    """Where a gradient arrives. `gradient` is what `backward` has added up here."""

    __slots__ = ("gradient",)
    depth = 0
    sources: "tuple[Source | None, ...]" = ()

    def __init__(self) -> None:
        self.gradient: Any = None


class Node:
    """One operation that was carried out. `saved` is None once it has been freed."""

    __slots__ = ("depth", "dtypes", "operation", "options", "saved", "shapes", "sources")

    def __init__(
        self,
        operation: Operation,
        options: Mapping[str, Any],
        sources: "tuple[Source | None, ...]",
        shapes: tuple[tuple[int, ...], ...],
        dtypes: tuple[Any, ...],
    ) -> None:
        self.operation = operation
        self.options = options
        self.sources = sources
        self.shapes = shapes
        self.dtypes = dtypes
        self.saved: dict[int, Saved] | None = {}
        self.depth: int = 1 + max(source.depth for source in sources if source is not None)

    def wanted(self) -> set[int]:
        """The inputs, or OUT, that the rules of inputs with a source want saved."""
        pairs = zip(self.operation.vjps, self.sources, strict=True)
        return {place for vjp, source in pairs if vjp and source is not None for place in vjp.saves}

    def pull(self, place: int, gradient: Numeric, wrap: "Wrap | None") -> Numeric:
        """The gradient of the input at `place`, from that of the result; with `wrap`, as a recorded tensor."""
        vjp = self.operation.vjps[place]
        assert vjp is not None  # inputs without a rule have no source
        if self.saved is None:
            raise ValueError(
                f"the gradient of {self.operation.name} is asked for a second time, but the graph was freed by the "
                "first: call backward or grad with retain_graph=True before"
            )
        values = []
        for number in vjp.saves:
            value: Numeric = self.saved[number].current(self.operation.name)
            source = self if number == OUT else self.sources[number]
            values.append(value if wrap is None or source is None else wrap(value, source))
        pulled = unbroadcast(vjp.rule(gradient, self, *values), self.shapes[place])
        return pulled if pulled.dtype == self.dtypes[place] else pulled.astype(self.dtypes[place])


Source = Node | Leaf
Wrap = Callable[[NDArray[Any], Source], Any]


def below(root: Source) -> list[Source]:
    """The root and everything that it was made of, the deepest first."""
    seen: set[Source] = {root}
    stack = [root]
    while stack:
        for source in stack.pop().sources:
            if source is not None and source not in seen:
                seen.add(source)
                stack.append(source)
    return sorted(seen, key=lambda source: -source.depth)


def pull_back(
    root: Source, seed: Numeric, wanted: Iterable[Source], *, wrap: Wrap | None, keep: bool
) -> dict[Source, Numeric]:
    """The gradients at those of `wanted` that the root depends on, from the root's own gradient `seed`.

    Only paths to `wanted` are walked. Without `keep`, what was saved is freed on the way.
    """
    order, targets = below(root), set(wanted)
    useful: set[Source] = set()
    for source in reversed(order):
        if source in targets or any(parent in useful for parent in source.sources):
            useful.add(source)
    gradients, found = {root: seed}, {}
    for source in order:
        if source not in gradients:
            continue
        gradient = gradients.pop(source)
        if source in targets:
            found[source] = gradient
        if isinstance(source, Node):
            _pass_on(source, gradient, gradients, useful, wrap)
            if not keep and source.saved:  # what saved nothing can be asked again
                source.saved = None
    return found


def _pass_on(
    node: Node, gradient: Numeric, gradients: dict[Source, Numeric], useful: set[Source], wrap: Wrap | None
) -> None:
    """Adds to the gradients of a node's sources what comes through it."""
    for place, source in enumerate(node.sources):
        if source is not None and source in useful:
            pulled = node.pull(place, gradient, wrap)
            gradients[source] = gradients[source] + pulled if source in gradients else pulled
