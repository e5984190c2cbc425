"""Reading images and masks from their files: any mode, upright, never more pixels than fit in memory."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torchvision.io import ImageReadMode

from segframe.data.file_listing import check_file
from segframe.errors import UserError

MAX_PIXELS = 178_956_970
"""Pixels of an image or a mask at most, checked in the header before memory is taken for them.

Pillow's own limit (2 x 89,478,485): 0.5 GB as RGB, and more than any camera's images; beyond it a file of a few bytes
can ask for more memory than there is. Checked here for all ways of reading a file, Pillow's included: its own check
would warn from half of it on.
"""
Image.MAX_IMAGE_PIXELS = None
MAX_BYTES = 8 * MAX_PIXELS
"""Of a file at most: four channels of 16 bits without compression."""

COLOURS = np.uint32
"""The type of the raw values of colour-coded masks, 0xRRGGBB; index masks have uint8 or uint16."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""Pillow's, of the suffixes in files.py, whichever of them a file has; MPO of cameras is a JPEG.

Not the forty that it knows: ICO decodes what it holds before its size can be checked, EPS starts Ghostscript.
"""
_KIND = "image or mask"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WITH_MORE = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL")
"""Chunks that may hold an orientation or further images."""
_PIECE = 1 << 18
"""Bytes that are inflated at once: what fits in a core's cache."""
_JPEG_START = b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENTS = frozenset((0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
"""Markers with a length before the frame header. TEM, RSTn and others have none, and what follows them is the next."""
_SIXTEEN_BIT = 1 << 16
_ORIENTATION = 0x0112
_SUBFILE = 0x00FE
_NO_PAGES = (1, 4, 5)
"""Of TIFF's kinds of pictures: smaller copy, transparency mask, smaller copy of one."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey of 2 and 4 bits over 0 to 255: so many levels lie between a stored value and the next."""


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    format: str
    """Pillow's name: JPEG, PNG ..."""
    mode: str
    """Pillow's name: L, P, RGB, RGBA, CMYK, I;16 ..."""
    height: int
    """As stored, before the orientation is applied."""
    width: int
    orientation: int
    """EXIF's, 1 to 8; 1 is upright."""
    palette: bytes = b""
    """Red, green and blue of index 0, 1, ... of a palette mask."""


def read_header(path: Path) -> Header:
    """Return what the file's header says; UserError where it cannot be read, or has too many pixels."""
    with _pillow(path) as image:
        # Not PngImageFile's own getexif, which decodes all pixels to see what follows them.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
        palette = bytes(image.getpalette("RGB") or []) if image.mode == "P" else b""
        return Header(image.format or "", image.mode, image.height, image.width, orientation, palette)


def read_image(path: Path) -> np.ndarray:
    """Return the image as uint8 RGB (H, W, 3), upright; UserError where the file cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        try:
            return _read_jpeg(path)
        except UserError:
            raise
        except (OSError, RuntimeError, AttributeError, ValueError, struct.error):
            pass  # Pillow reads what only it can, and says what is wrong
    image: Image.Image
    with _pillow(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits per channel: convert it to 8 bits")
    if image.mode == "P":
        # Straight to RGB, Pillow warns of palettes with transparency.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_raw(path: Path) -> np.ndarray:
    """Return a mask's raw values, (H, W), upright; UserError for a file that is no mask.

    Indices are uint8 or uint16 as they are stored, in 1 to 16 bits, a palette's included; colours (RGB or RGBA, alpha
    left out) are packed: see COLOURS.
    """
    if path.suffix.lower() == ".png":
        try:
            if (values := _read_plain_png(path)) is not None:
                return values
        except UserError:
            raise
        except (OSError, ValueError, struct.error, zlib.error):
            pass  # Pillow says what is wrong
    with _pillow(path) as opened:
        stored = _stored(opened)
        _check_mask(path, opened, stored)
        ImageOps.exif_transpose(opened, in_place=True)
    mask: Image.Image = opened
    if mask.mode == "LA":
        mask = mask.getchannel("L")
    if mask.mode in ("1", "L", "P"):
        values = np.array(mask).astype(np.uint8, copy=False)
        step = _GREY_STEPS.get(stored[:3])
        return values if step is None else values // np.uint8(step)
    if mask.mode.startswith("I"):
        values = np.array(mask)
        if values.min() >= 0 and values.max() < _SIXTEEN_BIT:
            return values.astype(np.uint16)
        raise UserError(f"{path} holds values from {values.min()} to {values.max()}: masks have 8 or 16 bits")
    if mask.mode in ("RGB", "RGBA"):
        return pack(np.array(mask))
    raise UserError(
        f"{path} is no mask (mode {mask.mode}): save it as a single-channel or palette PNG whose values are class "
        "indices, or as RGB in the palette's colours"
    )


def pack(colours: np.ndarray) -> np.ndarray:
    """Return (H, W) of COLOURS for (H, W, 3) RGB or (H, W, 4) RGBA of uint8."""
    how = cv2.COLOR_RGB2BGRA if colours.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    return cv2.cvtColor(colours, how).view("<u4")[..., 0] & COLOURS(0xFFFFFF)


def _read_plain_png(path: Path) -> np.ndarray | None:
    # Index masks are mostly grey or palette PNGs of 8 bits without filters: nothing is left but to inflate them, which
    # takes half of Pillow's time. None for any other file, and where the pixels are more or fewer than the header says.
    check_file(path, _KIND, MAX_BYTES)
    data = path.read_bytes()
    if data[:8] != _PNG or data[24:29] not in (b"\x08\0\0\0\0", b"\x08\3\0\0\0"):
        return None
    parts, at = [], 8
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            parts.append(data[at + 8 : at + 8 + size])
        elif name in _PNG_WITH_MORE:
            return None
        at += 12 + size
    width, height = struct.unpack_from(">2I", data, 16)
    _check_pixels(path, height, width)
    values = np.empty((height, width), np.uint8)
    inflater, rest = zlib.decompressobj(), b"".join(parts)
    top, step = 0, 8  # filters mostly show in the first rows
    while top < height:
        bottom = min(top + step, height)
        piece = np.frombuffer(inflater.decompress(rest, (bottom - top) * (width + 1)), np.uint8)
        rest = inflater.unconsumed_tail
        rows = piece.reshape(bottom - top, width + 1)
        if rows[:, 0].any():
            return None
        values[top:bottom] = rows[:, 1:]
        top, step = bottom, max(1, _PIECE // (width + 1))
    # At the end, which one more byte asks for, zlib compares the checksum.
    return values if not inflater.decompress(rest, 1) and inflater.eof else None


def _read_jpeg(path: Path) -> np.ndarray:
    # The same pixels as Pillow's in two thirds of the time, a third where images are large. This is the operator of
    # torchvision.io.decode_jpeg, which warns that it will go one day: Pillow takes over then.
    check_file(path, _KIND, MAX_BYTES)
    data = np.fromfile(path, np.uint8)
    _check_pixels(path, *_jpeg_size(data.data))
    image = torch.ops.image.decode_jpeg(torch.from_numpy(data), ImageReadMode.RGB.value, True)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    # Height and width from the first frame header: the operator takes memory for whatever they are. 2 us; letting
    # Pillow open the file first would take a tenth of the decoding's time. Anything unusual is left to Pillow:
    # the operator could find its way through it to another frame header.
    if data[:2] != _JPEG_START:
        raise ValueError
    at = 2
    while True:
        sign, marker, length = struct.unpack_from(">BBH", data, at)
        if sign == 0xFF and marker in _JPEG_FRAMES:
            return struct.unpack_from(">2H", data, at + 5)
        if sign != 0xFF or marker not in _JPEG_SEGMENTS or length < 2:
            raise ValueError
        at += 2 + length


def stored_area(path: Path) -> int:
    """Return the number of pixels of an image, from its header; UserError where the file cannot be read."""
    with _pillow(path) as image:
        return image.width * image.height


def _check_pixels(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(
            f"{path} has {width}x{height} pixels, and {MAX_PIXELS:,} are the most: cut image and mask into tiles"
        )


def _stored(image: ImageFile) -> str:
    # Pillow's name of how a file stores its pixels, L;4 or RGB;16B; it is known until they are decoded.
    for tile in image.tile[:1]:
        return tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])
    return ""


def _check_mask(path: Path, mask: ImageFile, stored: str) -> None:
    # Pillow would keep the upper 8 bits of each channel, and the first picture. A BMP of BGR;16 has 16 bits for all
    # channels together.
    if ";16" in stored and not mask.mode.startswith("I") and mask.format != "BMP":
        raise UserError(
            f"{path} has 16 bits in more than one channel: save it with a single channel whose values are class "
            "indices, or with 8 bits as RGB in the palette's colours"
        )
    if getattr(mask, "is_animated", False) and not _is_followed_by_copy(mask):
        raise UserError(f"{path} holds more than one picture: save the mask alone, as PNG")


def _is_followed_by_copy(mask: ImageFile) -> bool:
    # A TIFF's first page may be followed by smaller copies of it, for zooming, or by which of its pixels are valid.
    if not isinstance(mask, TiffImageFile):
        return False
    mask.seek(1)
    kind = mask.tag_v2.get(_SUBFILE)
    mask.seek(0)
    return kind in _NO_PAGES


@contextmanager
def _pillow(path: Path) -> Iterator[ImageFile]:
    try:
        check_file(path, _KIND, MAX_BYTES)
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixels(path, image.height, image.width)
            yield image
    except UserError:
        raise
    # Pillow answers a broken PNG with SyntaxError.
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read {path}, is the file damaged? ({error})") from None
