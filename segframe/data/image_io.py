"""Reading of image and mask files: all modes and bit depths, EXIF orientation, limits on size."""

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
"""Maximum number of pixels, checked in the header before memory is allocated.

This is Pillow's limit (2 x 89,478,485; 0.5 GB as RGB): a file of a few bytes can claim any size. It is checked here
because not all files are read by Pillow, which also warns from half of it on.
"""
Image.MAX_IMAGE_PIXELS = None
MAX_BYTES = 8 * MAX_PIXELS
"""Maximum size of a file: four channels of 16 bits without compression."""

COLOURS = np.uint32
"""dtype of raw colour-coded masks, 0xRRGGBB; index masks are uint8 or uint16."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""Formats that Pillow may open, whatever the suffix; cameras' MPO counts as JPEG.

Others are unsafe: ICO decodes its contents before the size can be checked, EPS starts Ghostscript.
"""
_KIND = "image or mask"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WITH_MORE = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL")
"""Chunks that may hold an orientation or more images."""
_CHUNK_BYTES = 1 << 18
"""Bytes to inflate at once; they fit in a core's cache."""
_JPEG_START = b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENTS = frozenset((0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
"""Markers before the frame header that are followed by a length; TEM, RSTn and others are not."""
_SIXTEEN_BIT = 1 << 16
_ORIENTATION = 0x0112
_SUBFILE = 0x00FE
_OVERVIEWS = (1, 4, 5)
"""Subfile types of TIFF: reduced image, transparency mask, reduced mask."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow scales grey of 2 and 4 bits to 0 ... 255, by these factors."""


class Header(NamedTuple):
    """Properties of an image file that are known without decoding it."""

    format: str
    """In Pillow's terms: JPEG, PNG ..."""
    mode: str
    """In Pillow's terms: L, P, RGB, RGBA, CMYK, I;16 ..."""
    height: int
    """As stored, before the orientation is applied."""
    width: int
    orientation: int
    """EXIF's, 1 to 8; 1 is upright."""
    palette: bytes = b""
    """Red, green and blue of index 0, 1, ... of a palette mask."""


def read_header(path: Path) -> Header:
    """Return the header of a file; UserError if it cannot be read or has too many pixels."""
    with _pillow(path) as image:
        # PngImageFile.getexif would decode all pixels to find chunks behind them.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
        palette = bytes(image.getpalette("RGB") or []) if image.mode == "P" else b""
        return Header(image.format or "", image.mode, image.height, image.width, orientation, palette)


def read_image(path: Path) -> np.ndarray:
    """Return the image as uint8 RGB (H, W, 3), upright; UserError if the file cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        try:
            return _read_jpeg(path)
        except UserError:
            raise
        except (OSError, RuntimeError, AttributeError, ValueError, struct.error):
            pass  # left to Pillow, which reads more or raises a better error
    image: Image.Image
    with _pillow(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits per channel: convert it to 8 bits")
    if image.mode == "P":
        # Pillow warns about palettes with transparency if they are converted to RGB directly.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_raw(path: Path) -> np.ndarray:
    """Return the raw values of a mask, (H, W), upright; UserError if the file is no mask.

    Grey and palette images of 1 to 16 bits give indices, uint8 or uint16; RGB and RGBA give colours, see COLOURS.
    """
    if path.suffix.lower() == ".png":
        try:
            if (values := _read_plain_png(path)) is not None:
                return values
        except UserError:
            raise
        except (OSError, ValueError, struct.error, zlib.error):
            pass  # left to Pillow, which raises a better error
    with _pillow(path) as opened:
        stored = _stored_mode(opened)
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
    # Most index masks are grey or palette PNGs of 8 bits without filters: inflating them is enough, and takes half of
    # Pillow's time. None for other files, and if there are more or fewer pixels than the header says.
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
        top, step = bottom, max(1, _CHUNK_BYTES // (width + 1))
    # zlib checks the checksum when the end is reached.
    return values if not inflater.decompress(rest, 1) and inflater.eof else None


def _read_jpeg(path: Path) -> np.ndarray:
    # The same pixels as Pillow's in two thirds of the time (large images: a third). torchvision.io.decode_jpeg calls
    # this operator and warns that it will be removed: then Pillow reads all JPEGs.
    check_file(path, _KIND, MAX_BYTES)
    data = np.fromfile(path, np.uint8)
    _check_pixels(path, *_jpeg_size(data.data))
    image = torch.ops.image.decode_jpeg(torch.from_numpy(data), ImageReadMode.RGB.value, True)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    # Height and width from the first frame header, because the operator allocates memory for any size. Takes 2 us;
    # opening the file with Pillow would take a tenth of the decoding time. Unusual files are left to Pillow: the
    # operator might use another frame header.
    if data[:2] != _JPEG_START:
        raise ValueError
    at = 2
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", data, at)
        if prefix == 0xFF and marker in _JPEG_FRAMES:
            return struct.unpack_from(">2H", data, at + 5)
        if prefix != 0xFF or marker not in _JPEG_SEGMENTS or length < 2:
            raise ValueError
        at += 2 + length


def stored_area(path: Path) -> int:
    """Return the number of pixels of an image, from its header; UserError if the file cannot be read."""
    with _pillow(path) as image:
        return image.width * image.height


def _check_pixels(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(f"{path} has {width}x{height} pixels, more than {MAX_PIXELS:,}: cut image and mask into tiles")


def _stored_mode(image: ImageFile) -> str:
    # How the file stores its pixels in Pillow's terms, as L;4 or RGB;16B; only known before they are decoded.
    for tile in image.tile[:1]:
        return tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])
    return ""


def _check_mask(path: Path, mask: ImageFile, stored: str) -> None:
    # Pillow would silently keep the upper 8 bits of each channel, and the first picture. BGR;16 in a BMP means 16 bits
    # for all channels together.
    if ";16" in stored and not mask.mode.startswith("I") and mask.format != "BMP":
        raise UserError(
            f"{path} has 16 bits in more than one channel: save it with a single channel whose values are class "
            "indices, or with 8 bits as RGB in the palette's colours"
        )
    if getattr(mask, "is_animated", False) and not _is_followed_by_overview(mask):
        raise UserError(f"{path} holds more than one picture: save the mask alone, as PNG")


def _is_followed_by_overview(mask: ImageFile) -> bool:
    # The first page of a TIFF may be followed by reduced copies of it, or by a mask of its valid pixels.
    if not isinstance(mask, TiffImageFile):
        return False
    mask.seek(1)
    kind = mask.tag_v2.get(_SUBFILE)
    mask.seek(0)
    return kind in _OVERVIEWS


@contextmanager
def _pillow(path: Path) -> Iterator[ImageFile]:
    try:
        check_file(path, _KIND, MAX_BYTES)
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixels(path, image.height, image.width)
            yield image
    except UserError:
        raise
    # Pillow raises SyntaxError for damaged PNGs, TypeError and KeyError for damaged pages of a TIFF.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot read {path}, is the file damaged? ({error})") from None
