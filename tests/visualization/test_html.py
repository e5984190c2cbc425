"""Pages of one file: escaping, charts, pictures."""

import base64
import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from segframe.visualization.html import MOST_POINTS, indices_uri, line_chart, make_axis


def test_a_chart_places_its_points_and_escapes_names():
    nan = float("nan")
    chart = ElementTree.fromstring(line_chart("<Loss>", {"a & b": [(0, 0), (50, nan), (100, 10)], "none": [(0, nan)]}))
    (line,) = chart.iter("polyline")
    assert line.get("points") == "52.0,206.0 408.0,12.0"
    texts = [text.text for text in chart.iter("text")]
    assert texts[:5] == ["0", "5", "10", "0", "50"]
    assert [span.text for span in chart.iter("span")] == ["a & b"]
    assert line_chart("Loss", {"a": [(1, nan)]}) == ""


def test_a_long_line_is_thinned_and_keeps_its_ends():
    chart = line_chart("x", {"a": [(k, k % 7) for k in range(10_000)]})
    points = re.search('points="([^"]*)"', chart)[1].split()
    assert len(points) == MOST_POINTS
    assert points[0].startswith("52.0,")
    assert points[-1].startswith("408.0,") or float(points[-1].split(",")[0]) > 407


@pytest.mark.parametrize(("values", "ticks"), [([0.06, 0.31], [0.0, 0.1, 0.2, 0.3, 0.4]), ([5, 5], [2, 4, 6, 8])])
def test_ticks_are_round(values, ticks):
    axis = make_axis(values)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.low <= min(values)
    assert axis.high >= max(values)


def test_indices_keep_their_colours():
    indices = np.array([[0, 1], [255, 1]], np.uint8)
    uri = indices_uri(indices, {0: (1, 2, 3), 1: (4, 5, 6), 255: (7, 8, 9)})
    picture = Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    assert np.asarray(picture).tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [4, 5, 6]]]
