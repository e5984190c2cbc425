"""Reading of image and mask files: all modes and bit depths, EXIF orientation, limits on size."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from segframe.data.band_files import BandFile, mask_type, open_bands
from segframe.data.file_listing import check_file
from segframe.data.pixel_format import RGB, PixelFormat, fit
from segframe.data.quick_decoding import MAX_BYTES, MAX_PIXELS, decode_jpeg, decode_palette_png
from segframe.errors import UserError

Image.MAX_IMAGE_PIXELS = None  # checked here, because Pillow warns from half of it on

COLOURS = np.uint32
"""dtype of raw colour-coded masks, 0xRRGGBB; index masks are uint8 or uint16."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""Formats that Pillow may open, whatever the suffix; cameras' MPO counts as JPEG.

Others are unsafe: ICO decodes its contents before the size can be checked, EPS starts Ghostscript.
"""
_ORIENTATION = 0x0112
_SAMPLES_PER_PIXEL = 0x0115
_SUBFILE = 0x00FE
_WITH_ALPHA = ("RGBA", "LA")
_OVERVIEWS = (1, 4, 5)
"""Subfile types of TIFF: reduced image, transparency mask, reduced mask."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow scales grey of 2 and 4 bits to 0 ... 255, by these factors."""

_MASK_BITS = "masks have 8 or 16 bits, save it with mask.astype('uint8') or 'uint16' as a PNG"


class Header(NamedTuple):
    """Properties of an image file that are known without decoding it."""

    format: str
    """In Pillow's terms: JPEG, PNG ...; or NPY."""
    mode: str
    """In Pillow's terms: L, P, RGB, RGBA, CMYK, I;16 ...; for other files, `5 bands of uint16`."""
    height: int
    """As stored, before the orientation is applied."""
    width: int
    orientation: int
    """EXIF's, 1 to 8; 1 is upright."""
    palette: bytes = b""
    """Red, green and blue of index 0, 1, ... of a palette mask."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width after the orientation is applied, as read_image returns the image."""
        return (self.height, self.width) if self.orientation < 5 else (self.width, self.height)


def read_header(path: Path) -> Header:
    """Return the header of a file; UserError if it cannot be read or has too many pixels."""
    with _opened(path) as image:
        if isinstance(image, BandFile):
            height, width, bands = image.shape
            return Header(image.format, f"{bands} bands of {image.dtype}", height, width, image.orientation)
        # PngImageFile.getexif would decode all pixels to find chunks behind them.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
        palette = bytes(image.getpalette("RGB") or []) if image.mode == "P" else b""
        return Header(image.format or "", image.mode, image.height, image.width, orientation, palette)


def read_image(path: Path, pixels: PixelFormat = RGB, keep_alpha: bool = True) -> np.ndarray:
    """Return an image (H, W, channels), upright: uint8, or uint16 if `pixels.max_value` is not 255.

    Palettes become RGB, grey becomes RGB where 3 channels are asked, RGB of equal channels becomes grey, and constant
    channels (alpha) beyond grey or RGB are left out. UserError if the file cannot be read, or if anything else would be
    lost or invented: bits, channels, further pictures. `keep_alpha` false: alpha that is not constant is left out too.
    """
    if pixels == RGB and (decoded := decode_jpeg(path)) is not None:
        return fit(path, decoded, pixels)
    with _opened(path) as image:
        values = _upright(image.read(), image.orientation) if isinstance(image, BandFile) else _decode(path, image)
    values = values if values.ndim == 3 else values[..., None]
    if not keep_alpha and values.shape[2] in (2, 4):
        values = values[..., :-1]
    return fit(path, values, pixels)


def as_values(image: Image.Image | np.ndarray, pixels: PixelFormat = RGB) -> np.ndarray:
    """Return an image in memory, a picture of Pillow's or an array (H, W) or (H, W, C), as read_image does a file."""
    if isinstance(image, Image.Image):
        if isinstance(image, ImageFile) and _has_cut_bits(image):
            raise UserError("the image has 16 bits per channel, of which Pillow keeps 8: give the path of its file")
        values = _values("the image", ImageOps.exif_transpose(image))
    else:
        values = np.array(image)  # a copy: the caller's may be read-only, or change later
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        raise UserError(f"the array has the shape {values.shape}: give an image as (H, W, channels), or a list of them")
    return fit("the image", values, pixels)


def _decode(path: Path, opened: ImageFile) -> np.ndarray:
    # All that the file stores, (H, W) or (H, W, C).
    _check_whole(path, opened)
    if _has_cut_bits(opened):
        if opened.format != "PNG":
            raise UserError(f"{path} has 16 bits per channel in mode {opened.mode}: save it as RGB, or with 8 bits")
        values = np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED))
        order = [0, 3] if _stored_mode(opened).startswith("LA") else [2, 1, 0, 3][: values.shape[2]]
        return _upright(values[..., order], opened.getexif().get(_ORIENTATION, 1))
    return _values(path, _upright_image(opened))


def _values(path: Path | str, image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        raise UserError(f"{path} has more than 16 bits per channel: save it with 8 or 16 bits")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("PA", "RGBa") or (image.mode in ("P", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode == "L" and "transparency" in image.info:
        image = image.convert("LA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX"):
        image = image.convert("RGB")
    return np.array(image)


def read_palette(path: Path) -> bytes:
    """Return red, green and blue of index 0, 1, ... of a palette image; nothing for other images and files."""
    try:
        return read_header(path).palette
    except UserError:  # no image file, such as a MATLAB file of SBD
        return b""


def read_raw(path: Path) -> np.ndarray:
    """Return the raw values of a mask, (H, W), upright; UserError if the file is no mask.

    Grey and palette images of 1 to 16 bits give indices, uint8 or uint16; RGB and RGBA give colours, see COLOURS.
    """
    if (indices := decode_palette_png(path)) is not None:
        return indices
    with _opened(path, bands=False) as opened:
        assert isinstance(opened, ImageFile)
        stored = _stored_mode(opened)
        _check_mask(path, opened)
        mask = _upright_image(opened)
    if mask.mode in _WITH_ALPHA and _is_constant(mask, "RGBL") and not _is_constant(mask, "A"):
        raise UserError(
            f"{path}: all its pixels have one colour, and alpha differs; save the alpha channel as grey PNG"
        )
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
        raise UserError(f"{path} holds values from {values.min()} to {values.max()}: {_MASK_BITS}")
    if mask.mode in ("RGB", "RGBA"):
        return pack(np.array(mask))
    raise UserError(
        f"{path} is no mask (mode {mask.mode}): save it as a single-channel or palette PNG whose values are class "
        "indices, or as RGB in the palette's colours"
    )


def has_alpha(path: Path, header: Header) -> bool:
    """Whether a mask has an alpha channel, which is not read, and it is not constant."""
    if header.mode not in _WITH_ALPHA:
        return False
    with _opened(path, bands=False) as image:
        assert isinstance(image, ImageFile)
        return not _is_constant(image, "A")


def _is_constant(image: Image.Image, channels: str) -> bool:
    extremes = (image.getchannel(channel).getextrema() for channel in image.getbands() if channel in channels)
    return all(low == high for low, high in extremes)


def pack(colours: np.ndarray) -> np.ndarray:
    """Return (H, W) of COLOURS for (H, W, 3) RGB or (H, W, 4) RGBA of uint8."""
    how = cv2.COLOR_RGB2BGRA if colours.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    return cv2.cvtColor(colours, how).view("<u4")[..., 0] & COLOURS(0xFFFFFF)


def _upright_image(image: ImageFile) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    # As ImageOps.exif_transpose.
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    values = values[:, ::-1] if orientation in (2, 3, 6, 7) else values
    return values[::-1] if orientation in (3, 4, 7, 8) else values


def _stored_mode(image: ImageFile) -> str:
    # How the file stores its pixels in Pillow's terms, as L;4 or RGB;16B; only known before they are decoded.
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else str((args or ("",))[0])


def _has_cut_bits(image: ImageFile) -> bool:
    # Pillow keeps the upper 8 bits of each of several channels. A BMP's BGR;16 has 16 bits for all of them together.
    return ";16" in _stored_mode(image) and not image.mode.startswith("I") and image.format != "BMP"


def _check_mask(path: Path, mask: ImageFile) -> None:
    if _has_cut_bits(mask):
        raise UserError(
            f"{path} has 16 bits in more than one channel: save it with a single channel whose values are class "
            "indices, or with 8 bits as RGB in the palette's colours"
        )
    _check_whole(path, mask)


def _check_whole(path: Path, image: ImageFile) -> None:
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_SAMPLES_PER_PIXEL, 1) > len(image.getbands()):
        raise UserError(f"{path} has channels that cannot be read in mode {image.mode}: save it as PNG")
    # A camera's MPO begins with its picture; others are previews, and views for stereo.
    if getattr(image, "is_animated", False) and image.format != "MPO" and not _is_followed_by_overview(image):
        raise UserError(f"{path} holds more than one picture: save each in a file of its own")


def _is_followed_by_overview(image: ImageFile) -> bool:
    # The first page of a TIFF may be followed by reduced copies of it, or by a mask of its valid pixels.
    if not isinstance(image, TiffImageFile):
        return False
    image.seek(1)
    kind = image.tag_v2.get(_SUBFILE)
    image.seek(0)
    return kind in _OVERVIEWS


@contextmanager
def _opened(path: Path, bands: bool = True) -> Iterator[ImageFile | BandFile]:
    # All errors of the libraries inside a reader become one sentence here.
    try:
        check_file(path, "image or mask", MAX_BYTES)
        if bands and (found := open_bands(path)) is not None:
            height, width, channels = found.shape
            _check_size(path, height, width, channels * found.dtype.itemsize)
            yield found
            return
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(path, image.height, image.width)
            yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of many types for damaged files
        if (stored := None if bands else mask_type(path)) is not None and isinstance(error, UnidentifiedImageError):
            raise UserError(f"{path} holds {stored}: {_MASK_BITS}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: there is no such file; correct the path") from None
        raise UserError(f"cannot read {path}, is the file damaged? ({reason})") from None


def _check_size(path: Path, height: int, width: int, pixel_bytes: int = 1) -> None:
    if not height * width * pixel_bytes:
        raise UserError(f"cannot read {path}, is the file damaged? (it has no pixels)")
    if height * width > MAX_PIXELS or height * width * pixel_bytes > MAX_BYTES:
        size = f"{height}x{width} pixels, more than {MAX_PIXELS:,}"
        raise UserError(f"{path} has {size}: cut image and mask into tiles")
