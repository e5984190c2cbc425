"""Reading of image and mask files: all modes and bit depths, EXIF orientation, limits on size."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    with _pillow(path) as opened:
        if opened.format in ("JPEG", "MPO"):
            # The same pixels as Pillow's in half of the time (large images: a quarter). torchvision.io.decode_jpeg
            # calls this operator and warns that it will be removed: then Pillow reads all JPEGs, as unusual ones now.
            with suppress(RuntimeError, AttributeError):
                data = torch.from_numpy(np.fromfile(path, np.uint8))
                pixels = torch.ops.image.decode_jpeg(data, ImageReadMode.RGB.value, True)
                return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        ImageOps.exif_transpose(opened, in_place=True)
    image: Image.Image = opened
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
        if values.min() >= 0 and values.max() < 1 << 16:
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


def _stored_mode(image: ImageFile) -> str:
    # How the file stores its pixels in Pillow's terms, as L;4 or RGB;16B; only known before they are decoded.
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else str((args or ("",))[0])


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
        check_file(path, "image or mask", MAX_BYTES)
        with Image.open(path, formats=_FORMATS) as image:
            if image.height * image.width > MAX_PIXELS:
                size = f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}"
                raise UserError(f"{path} has {size}: cut image and mask into tiles")
            yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise UserError(f"cannot read {path}, is the file damaged? ({error})") from None
