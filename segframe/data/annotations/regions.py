"""Regions of annotations, and the mask that they form."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from segframe.data.quick_decoding import MAX_PIXELS
from segframe.errors import UserError

MAX_COORDINATE = 1e6
"""Points are clipped to this: the libraries that fill polygons allocate memory for each pixel of an edge."""


class Region(NamedTuple):
    """The pixels of one annotation."""

    value: int
    """Class index, or void = 255."""
    top: int
    left: int
    inside: np.ndarray
    """bool (height, width): which pixels of the rectangle at (top, left) belong to it."""


def paint(size: tuple[int, int], regions: Iterable[Region], value: int) -> np.ndarray:
    """Return the mask (H, W) of uint8 with these regions, and `value` elsewhere.

    Where regions overlap, that of fewer pixels is on top; of two of the same number the later one.
    """
    mask = np.full(size, value, np.uint8)
    for region in sorted(regions, key=lambda region: -np.count_nonzero(region.inside)):
        height, width = region.inside.shape
        view = mask[region.top : region.top + height, region.left : region.left + width]
        view[region.inside] = region.value
    return mask


def check_size(where: str, height: int, width: int) -> tuple[int, int]:
    """Return height and width; UserError if there are more pixels than an image may have, or none."""
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise UserError(f"{where}: its image has {height}x{width} pixels; correct its height and width there")
    return height, width


def reaches_outside(points: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether points (N, 2) of x, y lie outside an image of this height and width by more than a pixel."""
    height, width = size
    return bool((points < -1).any() or (points > (width + 1, height + 1)).any())
