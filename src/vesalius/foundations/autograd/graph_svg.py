"""A picture of a graph: inputs on top, each operation below everything that it was made of, the result at the bottom.

Both engines are drawn by one layout. A row holds what is equally deep; within it, boxes stand in the order of the mean
place of what they are joined to above (Sugiyama et al. 1981, the barycentre method, one sweep). Left out: bending
edges round the boxes that they pass.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from vesalius.foundations.autograd.graph import Node, below
from vesalius.foundations.autograd.scalar import Value, topological_order
from vesalius.foundations.autograd.tensor import Tensor

LETTER, HEIGHT, GAP, ROW = 7.0, 38.0, 18.0, 70.0  # pixels: a letter's width, a box's height, between boxes and rows
FILLS = {True: "#e8f0fe", False: "#f6f6f6"}  # inputs, operations


@dataclass(frozen=True)
class Box:
    """One thing in the picture: two lines of text, its row from the top, and what stands above it."""

    key: Hashable
    lines: tuple[str, str]
    depth: int
    parents: tuple[Hashable, ...]

    @property
    def width(self) -> float:
        return LETTER * max(6, *map(len, self.lines)) + 12


def value_svg(result: Value, names: Mapping[str, Value] | None = None) -> str:
    """The graph below a `Value`, each with its number and, after `backward`, its gradient; `names` label inputs."""
    named = {id(value): name for name, value in (names or {}).items()}
    depths: dict[int, int] = {}
    boxes = []
    for value in topological_order(result):
        parents = tuple(dict.fromkeys(id(parent) for parent, _ in value.parents))
        depths[id(value)] = 1 + max((depths[parent] for parent in parents), default=-1)
        lines = (f"{named.get(id(value), value.name)} {value.data:.4g}".strip(), f"grad {value.grad:.4g}")
        boxes.append(Box(id(value), lines, depths[id(value)], parents))
    return draw(boxes)


def tensor_svg(result: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph below a tensor: operations with the shapes that they take; `names` label leaves.

    ValueError where the tensor has no history.
    """
    if result.source is None:
        raise ValueError("a tensor without history has no graph: make one with requires_grad=True")
    named = {tensor.source: (name, tensor.shape) for name, tensor in (names or {}).items()}
    boxes = []
    for source in below(result.source):
        if isinstance(source, Node):
            lines = (source.operation.name, " ".join(map(_shape, source.shapes)))
        else:
            name, shape = named.get(source, ("input", None))
            lines = (name, "" if shape is None else _shape(shape))
        parents = tuple(dict.fromkeys(parent for parent in source.sources if parent is not None))
        boxes.append(Box(source, lines, source.depth, parents))
    return draw(boxes)


def draw(boxes: Sequence[Box]) -> str:
    """A self-contained SVG of boxes in any order; every parent must be one of them and less deep."""
    centres, width = _places(boxes)
    height = ROW * max(box.depth for box in boxes) + HEIGHT + 2 * GAP
    edges = [_edge(centres[parent], centres[box.key]) for box in boxes for parent in box.parents]
    drawn = [_box(box, centres[box.key]) for box in boxes]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            'font-family="monospace" font-size="11" text-anchor="middle">',
            *edges,
            *drawn,
            "</svg>",
        ]
    )


def _places(boxes: Sequence[Box]) -> tuple[dict[Hashable, tuple[float, float]], float]:
    """The centre of each box, and the width of the widest row, on which the others are centred."""
    rows: dict[int, list[Box]] = defaultdict(list)
    for box in boxes:
        rows[box.depth].append(box)
    widths = {depth: sum(box.width + GAP for box in row) for depth, row in rows.items()}
    widest = max(widths.values()) + GAP
    centres: dict[Hashable, tuple[float, float]] = {}
    for depth in sorted(rows):
        x = (widest - widths[depth] + GAP) / 2
        for box in sorted(rows[depth], key=lambda box: _mean_place(box, centres)):
            centres[box.key] = (x + box.width / 2, GAP + HEIGHT / 2 + ROW * depth)
            x += box.width + GAP
    return centres, widest


def _mean_place(box: Box, centres: Mapping[Hashable, tuple[float, float]]) -> float:
    places = [centres[parent][0] for parent in box.parents]
    return sum(places) / len(places) if places else 0.0


def _edge(above: tuple[float, float], here: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = above, here
    return f'<line x1="{x1:.1f}" y1="{y1 + HEIGHT / 2:.1f}" x2="{x2:.1f}" y2="{y2 - HEIGHT / 2:.1f}" stroke="#888"/>'


def _box(box: Box, centre: tuple[float, float]) -> str:
    x, y = centre
    first, second = map(escape, box.lines)
    return (
        f'<rect x="{x - box.width / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{box.width:.1f}" height="{HEIGHT:.0f}" '
        f'rx="5" fill="{FILLS[not box.parents]}" stroke="#555"/>'
        f'<text x="{x:.1f}" y="{y - 3:.1f}">{first}</text>'
        f'<text x="{x:.1f}" y="{y + 11:.1f}" fill="#666">{second}</text>'
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "1"
