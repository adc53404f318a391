"""A NumPy array that remembers how it was computed, and `grad`, which asks it.

NumPy lets an argument take over a call: `np.exp(tensor)` and `tensor + 1` arrive in `__array_ufunc__`, `np.sum(tensor)`
in `__array_function__` (NEP 13, NEP 18). There the operation is carried out on the arrays inside and recorded as a node
of the graph. So code in NumPy is code in tensors, and the rules of gradients are too: with `create_graph` they run on
tensors and their own derivative can be asked for.

Writing in place is allowed as in torch, and watched: memory that tensors share has one version, what is saved for a
gradient remembers its version, and a view made before a recorded write is refused after it. Tensors share memory with
the array they were made of, and writing to `.data` directly is not seen.

Left out: devices, and gradients of complex numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import ArrayLike, DTypeLike, NDArray

from vesalius.foundations.autograd import elementwise, indexing, products, reducing, shaping
from vesalius.foundations.autograd.graph import Leaf, Node, Saved, Source, Version, below, pull_back
from vesalius.foundations.autograd.operation import OUT, Numeric, Operation, Recorder

RECORDING: ContextVar[bool] = ContextVar("recording", default=True)
FUNCTIONS = shaping.FUNCTIONS | reducing.FUNCTIONS | products.FUNCTIONS | {np.where: elementwise.WHERE}


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside, nothing is recorded: results have no history, and leaves may be written in place."""
    token = RECORDING.set(False)
    try:
        yield
    finally:
        RECORDING.reset(token)


class Tensor(NDArrayOperatorsMixin, Recorder):
    """Numbers, and where they came from: `source` is a Leaf, a Node, or None where no gradient is wanted."""

    __slots__ = ("data", "source", "version", "written")

    def __init__(self, data: ArrayLike, *, requires_grad: bool = False) -> None:
        self.data: NDArray[Any] = np.asarray(data)
        if self.data.dtype.kind not in "fiub":
            raise ValueError(f"a tensor holds real numbers, got {self.data.dtype}: of a tensor, pass its .data")
        if requires_grad and self.data.dtype.kind != "f":
            raise ValueError(f"only floating-point tensors have gradients, got {self.data.dtype}: cast it first")
        self.source: Source | None = Leaf() if requires_grad else None
        self.version = Version()
        self.written = 0  # the version's count when this tensor's history was made

    @property
    def requires_grad(self) -> bool:
        return self.source is not None

    @property
    def grad(self) -> "Tensor | None":
        """What `backward` has added up; None for results, whose gradients are not kept (ask `grad` for them)."""
        return self.source.gradient if isinstance(self.source, Leaf) else None

    def zero_grad(self) -> None:
        """Forgets the gradient."""
        if isinstance(self.source, Leaf):
            self.source.gradient = None

    def backward(
        self, gradient: ArrayLike | None = None, *, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Adds the gradient of this tensor by every leaf below it to the leaf's `grad`.

        `gradient` is that of some loss by this tensor; a single number needs none. ValueError where it is missing, or
        the graph was freed by an earlier call. `create_graph` makes gradients that can be differentiated again.
        """
        leaves = [source for source in below(_source_of(self)) if isinstance(source, Leaf)]
        found = _gradients(self, leaves, gradient, keep=retain_graph or create_graph, record=create_graph)
        for leaf, arrived in found.items():
            assert isinstance(leaf, Leaf)
            leaf.gradient = arrived if leaf.gradient is None else leaf.gradient + arrived

    def record(self, operation: Operation, inputs: tuple[Numeric, ...], options: Mapping[str, Any]) -> "Tensor":
        """Carries the operation out, and notes it where some input requires a gradient."""
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        out = Tensor(operation.forward(*arrays, **options))
        for x in inputs:
            if isinstance(x, Tensor):
                x._check_history()
                if out.data.base is not None and np.may_share_memory(out.data, x.data):
                    out.version, out.written = x.version, x.version.count
        if RECORDING.get():
            out.source = _node(operation, inputs, arrays, options, out)
        return out

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Numeric, **options: Any) -> Any:
        target = options.pop("out", (None,))[0]
        if method != "__call__" or options:
            raise ValueError(
                f"np.{ufunc.__name__} of a tensor takes no {method} or {sorted(options)}: only plain calls"
            )
        if ufunc in elementwise.STEPS:
            return ufunc(*(x.data if isinstance(x, Tensor) else x for x in inputs))
        function = products.matmul if ufunc is np.matmul else elementwise.UFUNCS.get(ufunc)
        if function is None:
            raise ValueError(f"np.{ufunc.__name__} has no gradient here: use one of {_names(elementwise.UFUNCS)}")
        if target is None:
            return function(*inputs)
        if not isinstance(target, Tensor):
            raise ValueError(f"np.{ufunc.__name__} would write a tensor into an array, which has no history")
        target._overwrite(function(*inputs), ufunc.__name__)
        return target

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if function is np.shape:
            return self.shape
        if function not in FUNCTIONS:
            raise ValueError(f"np.{function.__name__} has no gradient here: use one of {_names(FUNCTIONS)}")
        return FUNCTIONS[function](*args, **kwargs)

    def __getitem__(self, index: Any) -> "Tensor":
        return indexing.GETITEM(self, index=index)

    def __setitem__(self, index: Any, value: Numeric) -> None:
        value = value if isinstance(value, Tensor) else np.asarray(value, self.dtype)
        self._overwrite(indexing.PUT(self, value, index=index), "setitem")

    def _overwrite(self, result: "Tensor", name: str) -> None:
        """Takes over a result's numbers and history. ValueError where that would lose a leaf or change the shape."""
        if isinstance(self.source, Leaf) and RECORDING.get():
            raise ValueError(f"{name} would write in place to a leaf that requires a gradient: do it within no_grad()")
        if result.shape != self.shape:
            raise ValueError(f"{name} in place must keep the shape {self.shape}, got {result.shape}")
        self.data[...] = result.data
        self.version.bump(name)
        if result.source is not None:
            self.source = result.source
            self.version.recorded = self.written = self.version.count

    def _check_history(self) -> None:
        if self.written < self.version.recorded:
            raise ValueError(
                f"a tensor of shape {self.shape} shares memory that {self.version.by} has since written in place: "
                "take the view again from the tensor that was written"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def T(self) -> "Tensor":  # noqa: N802 - NumPy's name
        return shaping.transpose(self)

    def reshape(self, *shape: int) -> "Tensor":
        return shaping.reshape(self, shape)

    def transpose(self, *axes: int) -> "Tensor":
        return shaping.transpose(self, axes or None)

    def swapaxes(self, axis1: int, axis2: int) -> "Tensor":
        return shaping.swapaxes(self, axis1, axis2)

    def sum(self, axis: reducing.Axis = None, *, keepdims: bool = False) -> "Tensor":
        return reducing.sum_(self, axis, keepdims=keepdims)

    def mean(self, axis: reducing.Axis = None, *, keepdims: bool = False) -> "Tensor":
        return reducing.mean(self, axis, keepdims=keepdims)

    def astype(self, dtype: DTypeLike) -> "Tensor":
        return shaping.CAST(self, dtype=dtype)

    def detach(self) -> "Tensor":
        """The same memory without the history; writing to it in place is still seen."""
        out = Tensor(self.data)
        out.version, out.written = self.version, self.version.count
        return out

    def item(self) -> float:
        """The one number of a tensor of one."""
        return self.data.item()

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> "Iterator[Tensor]":
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        made = self.source.operation.name if isinstance(self.source, Node) else "leaf" if self.source else "constant"
        return f"Tensor({self.data}, {made})"


def grad(
    output: Tensor,
    inputs: Sequence[Tensor],
    gradient: ArrayLike | None = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> list[Tensor]:
    """The gradient of `output` by each of the inputs, which may be results in the middle; no `grad` changes.

    `gradient`, `retain_graph` and `create_graph` as in `backward`. ValueError where an input has no part in the output.

    >>> x = Tensor(2.0, requires_grad=True)
    >>> (slope,) = grad(x**3, [x], create_graph=True)
    >>> grad(slope, [x])[0].item()
    12.0
    """
    sources = [_source_of(x) for x in inputs]
    found = _gradients(output, sources, gradient, keep=retain_graph or create_graph, record=create_graph)
    for number, source in enumerate(sources):
        if source not in found:
            raise ValueError(f"the output does not depend on input {number}, of shape {inputs[number].shape}")
    return [found[source] for source in sources]


def _gradients(
    output: Tensor, wanted: Sequence[Source], gradient: ArrayLike | None, *, keep: bool, record: bool
) -> dict[Source, Tensor]:
    output._check_history()
    if gradient is None and output.data.size != 1:
        raise ValueError(f"a tensor of shape {output.shape} is no single loss: pass its gradient")
    seed: Numeric = np.ones_like(output.data) if gradient is None else gradient
    seed = seed if isinstance(seed, Tensor) else Tensor(np.asarray(seed, output.dtype))
    if seed.shape != output.shape:
        raise ValueError(f"the gradient must have the output's shape {output.shape}, got {seed.shape}")
    if record:
        return pull_back(_source_of(output), seed, wanted, wrap=_wrapped, keep=keep)
    found = pull_back(_source_of(output), seed.data, wanted, wrap=None, keep=keep)
    return {source: Tensor(np.array(arrived, order="C")) for source, arrived in found.items()}  # sums share theirs


def _wrapped(data: NDArray[Any], source: Source) -> Tensor:
    tensor = Tensor(data)
    tensor.source = source
    return tensor


def _source_of(tensor: Tensor) -> Source:
    if tensor.source is None:
        raise ValueError(f"a tensor of shape {tensor.shape} has no history: make one with requires_grad=True")
    return tensor.source


def _node(
    operation: Operation, inputs: Sequence[Numeric], arrays: Sequence[Any], options: Mapping[str, Any], out: Tensor
) -> Node | None:
    """The node of a call, with what its rules want saved; None where no input has a gradient."""
    pairs = zip(inputs, operation.vjps, strict=True)
    sources = tuple(x.source if vjp and isinstance(x, Tensor) else None for x, vjp in pairs)
    if not any(source is not None for source in sources):
        return None
    dtypes = tuple(x.dtype if isinstance(x, Tensor) else None for x in inputs)
    node = Node(operation, options, sources, tuple(np.shape(x) for x in arrays), dtypes)
    node.saved = {place: _saved(out if place == OUT else inputs[place]) for place in node.wanted()}
    return node


def _saved(value: Numeric) -> Saved:
    return Saved(value.data, value.version) if isinstance(value, Tensor) else Saved(value, None)


def _names(functions: Iterable[Callable[..., Any]]) -> str:
    return ", ".join(sorted(f"np.{function.__name__}" for function in functions))
