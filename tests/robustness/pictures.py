"""Hypothesis strategies of image files."""

import io

import cv2
import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF", ".webp": "WEBP"}


def arrays(channels, depths):
    """Random values (H, W, C) of up to 20 rows and columns."""
    sizes = st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from(channels))
    noise = st.builds(lambda seed, size: np.random.default_rng(seed).integers(0, 255, size), st.integers(0, 999), sizes)
    return st.builds(lambda values, depth: (values * (np.iinfo(depth).max // 255)).astype(depth), noise, depths)


@st.composite
def pictures(draw, suffix):
    """A valid image file of a format, in one of its modes."""
    modes = {".jpg": ("RGB", "L", "CMYK"), ".gif": ("L", "P"), ".webp": ("RGB", "RGBA"), ".bmp": ("RGB", "L", "1", "P")}
    mode = draw(st.sampled_from(modes.get(suffix, ("RGB", "L", "1", "RGBA", "LA", "LAB", "I;16", "bands"))))
    if suffix == ".npy" or mode == "bands":
        channels = (1, 3, 4) if suffix == ".png" else (1, 2, 3, 4, 6)
        return encoded(draw(arrays(channels, st.sampled_from((np.uint8, np.uint16)))), suffix)
    file = io.BytesIO()
    pixels = draw(arrays((3,), st.just(np.uint8)))
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) << 8)
    else:
        image = Image.fromarray(pixels, "LAB") if mode == "LAB" else Image.fromarray(pixels).convert(mode)
    image.save(file, "TIFF" if mode == "LAB" else FORMATS[suffix])
    return file.getvalue()


def encoded(values, suffix):
    """A file of an array (H, W, C): PNG, TIFF or npy."""
    file = io.BytesIO()
    if suffix == ".png":
        order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] > 1 else [0]
        return cv2.imencode(".png", values[..., order])[1].tobytes()
    if suffix == ".npy":
        np.save(file, values)
    else:
        tifffile.imwrite(file, values, photometric="rgb" if values.shape[2] in (3, 4) else "minisblack")
    return file.getvalue()


NO_PIXELS = bytes.fromhex(
    "49492a0008000000050000000000000000000000000000000000000000000000000002010100020000000900000000000000"
    "000000000000000006010300010000000100000000"
)
"""A TIFF of 0 x 0 pixels."""
