"""Black and white masks of two classes, also with the noise of JPEG."""

from pathlib import Path

import numpy as np

from segframe.data.image_io import COLOURS, read_header, read_palette
from segframe.errors import UserError

THRESHOLD = 128
"""The lowest value of class 1."""
WHITE = 192
"""The lowest value that the brightest pixel of a mask with class 1 has."""
MAX_NOISE = 0.01
"""Share of the pixels that may not be 0 in a JPEG mask of class 0 alone."""
MAX_GREY = 0.25
"""Share of the pixels that may be far from black and white; a photograph has more of them."""
_WHITE_BLACK = bytes([255, 255, 255, 0, 0, 0])


def threshold(raw: np.ndarray, path: Path) -> np.ndarray:
    """Return the classes of a raw mask (H, W), grey, RGB or palette, as uint8: 0 below THRESHOLD, else 1.

    A mask of 0 and 1 alone is returned as it is, unless it is a JPEG. UserError for colours, for many grey pixels,
    for dark pixels without a white one, and for a palette that shows class 0 in white and class 1 in black.
    """
    if raw.dtype == COLOURS:
        channels = np.stack([raw >> 16, raw >> 8 & 255, raw & 255])
        raw = channels.max(axis=0)
        if (raw - channels.min(axis=0)).max() > WHITE - THRESHOLD:
            raise UserError(f"{path} is no black and white mask: it holds colours; set data.dataset.binary=false")
    top = int(raw.max())
    if top < 2 and read_palette(path).startswith(_WHITE_BLACK):
        raise UserError(
            f"{path}: its palette shows index 0 in white and 1 in black; if white is class 1, leave out "
            "data.dataset.binary and set 'data.dataset.label_map={0: 1, 1: 0}'"
        )
    num_grey = np.count_nonzero((raw > 255 - WHITE) & (raw < WHITE))
    if top == 0 or (top >= WHITE and num_grey <= MAX_GREY * raw.size):
        return (raw >= THRESHOLD).astype(np.uint8)
    is_jpeg = read_header(path).format == "JPEG"
    if top == 1 and not is_jpeg:
        return raw.astype(np.uint8)
    if is_jpeg and top < WHITE and np.count_nonzero(raw) <= MAX_NOISE * raw.size:
        return np.zeros(raw.shape, np.uint8)
    raise UserError(
        f"{path} is no black and white mask: it holds values up to {top}, {num_grey} of {raw.size} pixels are grey; "
        "set data.dataset.binary=false and a label_map of its values"
    )
