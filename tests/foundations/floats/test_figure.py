"""Figures: well-formed, complete, and inside their frame."""

from xml.etree import ElementTree

import numpy as np
import pytest

from vesalius.foundations.floats.figure import HEIGHT, LEFT, WIDTH, curves_svg, running_mean

SVG = "{http://www.w3.org/2000/svg}"


def points(element: ElementTree.Element) -> np.ndarray:
    return np.array([pair.split(",") for pair in element.attrib["points"].split()], dtype=float)


def test_every_curve_is_a_line_inside_the_frame_and_has_a_name():
    root = ElementTree.fromstring(curves_svg({"a": [3, 2, 1], "b < c": [3, float("nan"), 5]}, label="loss", window=1))
    lines = [points(element) for element in root.iter(SVG + "polyline")]
    assert [len(line) for line in lines] == [3, 2]
    for line in lines:
        assert ((line >= [LEFT, 0]) & (line <= [WIDTH, HEIGHT])).all()
    assert lines[0][0, 1] < lines[0][1, 1] < lines[0][2, 1]  # less is lower, and y grows downwards
    assert {"a", "b < c", "loss", "1.00", "5.00"} <= {element.text for element in root.iter(SVG + "text")}


def test_running_means_begin_with_what_there_is():
    assert running_mean([4, 2, 0, 2], 2).tolist() == [4, 3, 1, 1]


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="curves with finite numbers, got 1"):
        curves_svg({"a": [float("nan")]}, label="loss")
