"""Decoding of usual JPEGs and palette PNGs in less time than Pillow takes; the pixels are the same."""

import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode

from segframe.data.file_listing import check_file

MAX_PIXELS = 178_956_970
"""Maximum number of pixels, checked in the header before memory is allocated.

This is Pillow's limit (2 x 89,478,485; 0.5 GB as RGB): a file of a few bytes can claim any size.
"""
MAX_BYTES = 8 * MAX_PIXELS
"""Maximum size of a file, and of its pixels: four channels of 16 bits without compression."""

_JPEG = b"\xff\xd8"
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""Markers of JPEG that are no frame headers, in the range of those that are."""
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
_PALETTE = b"\x08\x03\0\0\0"
"""End of the header of a palette PNG: 8 bits, not interlaced."""
_CHUNKS = {b"IHDR", b"PLTE", b"IEND", b"gAMA", b"sRGB", b"cHRM", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"tIME"}
"""Chunks that do not change how the indices are read; text may hold an orientation."""


def decode_jpeg(path: Path) -> np.ndarray | None:
    """Return a JPEG upright as RGB (H, W, 3); None for other files, damaged and too large ones."""
    # The same pixels as Pillow's in half of the time (large images: a quarter). torchvision.io.decode_jpeg calls this
    # operator and warns that it will be removed: then Pillow reads all JPEGs, as it reads unusual ones now.
    with suppress(OSError, RuntimeError, AttributeError):
        if (data := _read(path, _JPEG, b"")) is not None and 0 < _jpeg_pixels(data) <= MAX_PIXELS:
            packed = torch.frombuffer(data, dtype=torch.uint8)
            image = torch.ops.image.decode_jpeg(packed, ImageReadMode.RGB.value, True)
            return np.asarray(image.permute(1, 2, 0))
    return None


def decode_palette_png(path: Path) -> np.ndarray | None:
    """Return the indices (H, W) of a PNG with a palette of 8 bits and unfiltered rows, as libpng and Pillow write them.

    None for other files, damaged and too large ones.
    """
    # Pillow decompresses each row by itself, which takes twice as long.
    with suppress(OSError, zlib.error):
        if (data := _read(path, _PNG, _PALETTE)) is not None and (packed := _png_pixels(data)) is not None:
            width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
            size = height * (width + 1)  # a byte before each row is its filter
            if 0 < width * height <= MAX_PIXELS:
                stream = zlib.decompressobj()
                rows = np.frombuffer(stream.decompress(packed, size + 1), np.uint8)
                if stream.eof and rows.size == size:
                    rows = rows.reshape(height, width + 1)
                    return None if rows[:, 0].any() else rows[:, 1:].copy()
    return None


def _read(path: Path, start: bytes, header_end: bytes) -> bytearray | None:
    # The file if it begins like this, and the first 29 bytes end like this.
    check_file(path, "image or mask", MAX_BYTES)
    with path.open("rb") as file:
        header = file.read(29)
        if not header.startswith(start) or not header.endswith(header_end):
            return None
        return bytearray(header + file.read())


def _jpeg_pixels(data: bytearray) -> int:
    # Height times width in the first frame header; 0 if something else is found where a marker is expected.
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF and (marker := data[at + 1]) >= 0xC0:
        if marker <= 0xCF and marker not in _NO_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7]) * int.from_bytes(data[at + 7 : at + 9])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0


def _png_pixels(data: bytearray) -> bytes | None:
    # The compressed pixels; None if another chunk is damaged, or may change their meaning.
    packed, at = [], 8
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        kind = bytes(data[at + 4 : at + 8])
        if kind == b"IDAT":
            packed.append(data[at + 8 : end])  # which has a checksum of its own
        elif kind not in _CHUNKS or zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return None
        at = end + 4
    return b"".join(packed)
