"""Pictures: every operation once, every edge downwards, nothing on top of anything."""

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from vesalius.foundations.autograd.graph_svg import tensor_svg, value_svg
from vesalius.foundations.autograd.mini_gpt import MiniGPT, MiniGPTConfig
from vesalius.foundations.autograd.scalar import Value
from vesalius.foundations.autograd.tensor import Tensor

SVG = "{http://www.w3.org/2000/svg}"


def parts(svg: str, tag: str) -> list[dict[str, str]]:
    return [element.attrib for element in ElementTree.fromstring(svg).iter(SVG + tag)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(SVG + "text")]


def test_values_show_numbers_and_gradients():
    x, y = Value(3.0), Value(2.0)
    z = x * y + x
    z.backward()
    svg = value_svg(z, {"x": x, "y<1": y})
    assert texts(svg) == ["x 3", "grad 3", "y<1 2", "grad 3", "× 6", "grad 1", "+ 9", "grad 1"]
    assert len(parts(svg, "line")) == 4


def test_tensors_show_operations_and_shapes():
    x, w = (Tensor(np.ones(shape), requires_grad=True) for shape in ((2, 3), (3, 4)))
    svg = tensor_svg(np.tanh(x @ w), {"x": x, "w": w})
    assert sorted(texts(svg)) == sorted(["tanh", "2×4", "matmul", "2×3 3×4", "x", "2×3", "w", "3×4"])
    assert len(parts(svg, "line")) == 3


def test_a_whole_models_picture_has_every_box_in_its_own_place():
    model = MiniGPT(MiniGPTConfig(hidden_size=8, num_attention_heads=2), np.random.default_rng(0))
    svg = tensor_svg(model(np.zeros((1, 4), np.int64)), dict(model.named_parameters()))
    boxes = [{name: float(box[name]) for name in ("x", "y", "width", "height")} for box in parts(svg, "rect")]
    assert len(boxes) > 60
    for one, other in combinations(boxes, 2):
        beside = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
        assert beside or one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]
    assert all(float(line["y1"]) < float(line["y2"]) for line in parts(svg, "line"))
    assert {name for name, _ in model.named_parameters()} <= set(texts(svg))


def test_a_tensor_without_history_is_refused():
    with pytest.raises(ValueError, match="without history has no graph"):
        tensor_svg(Tensor(1.0))
