"""Pictures, uint8 (H, W, 3), of a class's scores (heat maps) and of the channels of feature maps."""

from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segframe.visualization.overlays import INK, Picture, as_rgb, blend, canvas, color_ramp, fit_height, font

TOP, GAP, BAR = 28, 6, 64
"""Height of a title, space between panels, width of a colour bar with its numbers; in pixels."""
GRID_WIDTH = 1024
HEAT = 0.7
"""Opacity of a heat map over the image."""


def heat_map(image: np.ndarray, scores: NDArray[np.float32], title: str, aligned_stride: int | None) -> Picture:
    """Draw scores 0 ... 1 (h, w) as colours over the image (H, W, C) in grey, each cell as the block that it covers."""
    image = as_rgb(image)
    original, image = len(image), fit_height(image, largest=len(image))
    height, width = image.shape[:2]
    spacing = None if aligned_stride is None else aligned_stride * height / original
    rows = nearest_cells(scores.shape[0], height, spacing)
    columns = nearest_cells(scores.shape[1], width, spacing)
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    picture, draw = canvas(TOP + height + GAP, width + BAR)
    picture.paste(Image.fromarray(blend(grey, _heat(scores[rows][:, columns]), HEAT)), (0, TOP))
    draw.text((GAP, TOP // 2), title, fill=INK, font=font(15), anchor="lm")

    # The colour bar, mixed with a medium grey.
    scale = _heat(np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(18, axis=1))
    picture.paste(Image.fromarray(blend(np.full_like(scale, 128), scale, HEAT)), (width + GAP, TOP))
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = TOP + round((1 - value) * (height - 1))
        draw.line([(width + GAP + 18, y), (width + GAP + 22, y)], fill=INK)
        anchor = "ls" if value == 0 else "lt" if value == 1 else "lm"
        draw.text((width + GAP + 25, y), f"{value:g}", fill=INK, font=font(12), anchor=anchor)
    return np.asarray(picture)


def nearest_cells(cells: int, pixels: int, spacing: float | None) -> NDArray[np.int64]:
    """Return the nearest cell of each pixel of a side; cells fill it, or lie `spacing` pixels apart from pixel 0."""
    x = np.arange(pixels)
    centre = (x + 0.5) * cells / pixels - 0.5 if spacing is None else x / spacing
    return np.floor(centre + 0.5).astype(np.int64).clip(0, cells - 1)


def feature_grid(features: NDArray[np.float32], count: int, title: str) -> Picture:
    """Draw the `count` channels of a map (C, h, w) that vary most, each scaled from its minimum to its maximum."""
    spread = features.std(axis=(1, 2))
    chosen = np.argsort(-spread, kind="stable")[:count]
    columns = ceil(len(chosen) ** 0.5)
    height, width = features.shape[1:]
    side = (GRID_WIDTH - (columns - 1) * GAP) // columns
    tile_height = max(1, round(side * height / width))
    label = 18
    picture, draw = canvas(TOP + ceil(len(chosen) / columns) * (tile_height + label), GRID_WIDTH)
    draw.text((GAP, TOP // 2), title, fill=INK, font=font(15), anchor="lm")
    for k, channel in enumerate(chosen):
        x, y = k % columns * (side + GAP), TOP + k // columns * (tile_height + label)
        plane = features[channel]
        low, high = float(plane.min()), float(plane.max())
        tile = Image.fromarray(inferno((plane - low) / ((high - low) or 1)))
        picture.paste(tile.resize((side, tile_height), Image.Resampling.NEAREST), (x, y))
        text = f"{channel}: {low:.3g} ... {high:.3g}"
        draw.text((x, y + tile_height + label // 2), text, fill=INK, font=font(11), anchor="lm")
    return np.asarray(picture)


def _heat(values: NDArray[np.float32]) -> Picture:
    """Map (h, w) to colours (h, w, 3): white (0), yellow, orange, dark red (1)."""
    stops = ((255, 255, 255), (254, 217, 98), (253, 141, 40), (227, 26, 28), (110, 0, 38))
    return color_ramp(values, [0, 0.25, 0.5, 0.75, 1], stops)


def inferno(values: NDArray[np.float32]) -> Picture:
    """Map (h, w) to colours (h, w, 3): black (0), violet, orange, pale yellow (1)."""
    colors = cv2.applyColorMap((values * 255 + 0.5).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(colors, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
