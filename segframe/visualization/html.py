"""HTML pages of one file: templates, pictures as data URIs, curves as SVG."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import floor, isfinite, isnan, log10
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from segframe.files import without_nan
from segframe.visualization.overlays import Color, Picture
from segframe.visualization.tables import fraction

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 240, 52, 12, 12, 34
MOST_POINTS = 400
"""Maximum number of points drawn per line."""


def render(template: str, **values: Any) -> str:
    """Return a page from segframe/visualization/templates; texts are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segframe.visualization"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fraction": fraction, "percent": percent, "count": count, "without_nan": without_nan}
    return environment.get_template(template).render(values)


def percent(value: float) -> str:
    return "-" if isnan(value) else f"{100 * value:.1f} %"


def count(value: int) -> str:
    return f"{value:,}"


def photo_uri(picture: Picture) -> str:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_uri(picture: Picture) -> str:
    return _png_uri(Image.fromarray(picture))


def indices_uri(indices: NDArray[np.uint8], palette: Mapping[int, Color]) -> str:
    """Return indices (H, W) in the colours of a palette, as a PNG with that palette in a data URI."""
    image = Image.fromarray(indices)
    table = np.zeros((256, 3), np.uint8)
    for index, color in palette.items():
        table[index] = color
    image.putpalette(table.tobytes())
    return _png_uri(image)


def _png_uri(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


class Axis(NamedTuple):
    """The range of a chart's axis, and its ticks."""

    low: float
    high: float
    ticks: list[float]


def make_axis(values: Sequence[float]) -> Axis:
    """Return an axis around values, with about four ticks at round numbers."""
    low, high = min(values), max(values)
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / 4
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = floor(low / step), -floor(-high / step)
    return Axis(first * step, last * step, [k * step for k in range(first, last + 1)])


def line_chart(title: str, lines: Mapping[str, Points]) -> Markup:
    """Return lines of points (x, y) as an SVG without those whose y is not finite.

    The page's CSS classes line0 ... line5 colour the lines.
    """
    finite = {name: [point for point in points if isfinite(point[1])] for name, points in lines.items()}
    kept = {name: thin_out(points) for name, points in finite.items() if points}
    every = [point for points in kept.values() for point in points]
    if not every:
        return Markup()
    x_axis, y_axis = make_axis([x for x, _ in every]), make_axis([y for _, y in every])

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_axis.low) / (x_axis.high - x_axis.low), (y - y_axis.low) / (y_axis.high - y_axis.low)
        return LEFT + (WIDTH - LEFT - RIGHT) * across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    for tick in y_axis.ticks:
        y = place(x_axis.low, tick)[1]
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(Markup('<text x="{}" y="{:.1f}" class="right">{}</text>').format(LEFT - 6, y + 4, f"{tick:.4g}"))
    for tick in x_axis.ticks:
        x = place(tick, y_axis.low)[0]
        parts.append(Markup('<text x="{:.1f}" y="{}" class="middle">{}</text>').format(x, HEIGHT - 18, f"{tick:.6g}"))
    parts.append(Markup('<text x="{}" y="{}" class="middle">step</text>').format(WIDTH / 2, HEIGHT - 3))
    for k, points in enumerate(kept.values()):
        where = [place(*point) for point in points]
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(Markup('<polyline class="line{}" points="{}"/>').format(k % 6, text))
        if len(points) <= 12:
            parts += [
                Markup('<circle class="line{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(k % 6, *at) for at in where
            ]
    parts.append(Markup("</svg>"))
    legend = [Markup('<span class="line{}">{}</span>').format(k % 6, name) for k, name in enumerate(kept)]
    caption = Markup("<figcaption><b>{}</b> {}</figcaption>").format(title, Markup(" ").join(legend))
    return Markup('<figure class="plot">{}{}</figure>').format(caption, Markup("").join(parts))


def thin_out(points: Points) -> Points:
    """Return at most MOST_POINTS of the points, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(k)] for k in np.linspace(0, len(points) - 1, MOST_POINTS).tolist()]
