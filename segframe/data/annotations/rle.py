"""COCO's run-length encoding (Lin et al., 2014): lengths of runs of 0 and 1 in turn, down the columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segframe.errors import UserError


def _library() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError("COCO's annotations need pycocotools: pip install 'segframe[annotations]'") from None
    return mask


def compress(lengths: Sequence[int], height: int, width: int) -> bytes:
    found: bytes = _library().frPyObjects({"counts": lengths, "size": [height, width]}, height, width)["counts"]
    return found


def from_polygon(points: np.ndarray, height: int, width: int) -> bytes:
    """Return the pixels of a polygon, (N, 2) of x, y with N > 2, as run lengths in compressed form."""
    found: bytes = _library().frPyObjects([points.ravel().tolist()], height, width)[0]["counts"]
    return found


def union(parts: Sequence[bytes], height: int, width: int) -> bytes:
    """Return the union of regions, all in compressed form."""
    if len(parts) == 1:
        return parts[0]
    found: bytes = _library().merge([{"counts": part, "size": [height, width]} for part in parts])["counts"]
    return found


def decode(counts: bytes, height: int, width: int) -> tuple[int, int, np.ndarray]:
    """Return top and left of the rectangle around a region, and its pixels there, bool (rows, columns).

    `counts`: the compressed form, as pycocotools has it. Unlike its decode, the time does not grow with the size of the
    image: an aerial photograph has thousands of small regions. ValueError if the runs do not cover the image.
    """
    ends = np.cumsum(run_lengths(counts))
    if not len(ends) or ends[-1] != height * width or (np.diff(ends, prepend=0) < 0).any():
        raise ValueError(f"its runs do not cover {height}x{width} pixels")
    starts, stops = ends[: len(ends) // 2 * 2].reshape(-1, 2).T  # of the runs of 1
    is_empty = starts == stops
    starts, stops = starts[~is_empty], stops[~is_empty]
    if not len(starts):
        return 0, 0, np.zeros((0, 0), bool)
    columns, rows = np.divmod(starts, height)
    last_columns, last_rows = np.divmod(stops - 1, height)
    top, bottom, left = 0, height, int(columns[0])
    if (columns == last_columns).all():  # no run goes on in the next column
        top, bottom = int(rows.min()), int(last_rows.max()) + 1
    num_rows, num_columns = bottom - top, int(last_columns[-1]) + 1 - left
    edges = np.zeros(num_rows * num_columns + 1, np.int8)
    edges[(columns - left) * num_rows + rows - top] = 1
    edges[(last_columns - left) * num_rows + last_rows - top + 1] -= 1
    return top, left, np.cumsum(edges[:-1], dtype=np.int8).view(bool).reshape(num_columns, num_rows).T


def run_lengths(counts: bytes) -> np.ndarray:
    """Return the numbers of the compressed form, int64; ValueError if it is cut off.

    Each has five bits per character, the lowest first; bit 5 says that more follow, bit 4 of the last is the sign. From
    the fourth number on, the one two before it is subtracted.
    """
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(characters) or (characters < 0).any() or (characters > 63).any() or characters[-1] & 32:
        raise ValueError("its counts are damaged")
    last = np.flatnonzero(characters & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 8:
        raise ValueError("its counts are damaged")
    place = np.arange(len(characters)) - np.repeat(first, length)
    numbers = np.add.reduceat((characters & 31) << 5 * place, first)
    numbers -= (characters[last] & 16 > 0) * (1 << 5 * length)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
