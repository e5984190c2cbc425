"""Reading of files that Pillow cannot read, or not whole: NumPy arrays, TIFFs of several bands or of 16 bits."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segframe.errors import UserError

TIFF_SUFFIXES = (".tif", ".tiff")
_OVERVIEW = 1 | 4
"""Bits of a TIFF page's subfile type: reduced copy of another page, mask of its valid pixels."""


class BandFile(NamedTuple):
    """A file of bands: its properties, and how to decode it."""

    format: str
    shape: tuple[int, int, int]
    """Height, width and bands, as stored."""
    dtype: np.dtype
    orientation: int
    """EXIF's, 1 to 8; 1 is upright."""
    read: Callable[[], np.ndarray]
    """Returns the values, (H, W, C)."""


def open_bands(path: Path) -> BandFile | None:
    """Return the file if it is a NumPy array or a TIFF that Pillow does not read whole; None for all other files."""
    if path.suffix.lower() == ".npy":
        return _open_array(path)
    return _open_tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else None


def _open_array(path: Path) -> BandFile:
    values = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, because a header may claim any size
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size:
        raise UserError(f"{path} holds an array of shape {values.shape}: save it as (H, W) or (H, W, channels)")
    return BandFile("NPY", values.shape, values.dtype, 1, lambda: np.array(values))


def _open_tiff(path: Path) -> BandFile | None:
    import tifffile

    logging.getLogger("tifffile").disabled = True  # it reports damage that Pillow reads over
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            kind, bands, alpha = tifffile.PHOTOMETRIC(page.photometric).name, page.samplesperpixel, page.extrasamples
            orientation = page.tags.valueof("Orientation", default=1)
            dtype, bits, shape = page.dtype, page.bitspersample, (page.imagelength, page.imagewidth, bands)
            pictures = sum(not getattr(other, "subfiletype", 0) & _OVERVIEW for other in file.pages)
    except Exception:  # of many types; Pillow reads the file, or says what is wrong
        return None
    is_plain = dtype == np.uint8 and ((kind, bands) in (("MINISBLACK", 1), ("RGB", 3)) or alpha in ((1,), (2,)))
    if dtype is None or bits < 8 or kind not in ("MINISBLACK", "RGB") or is_plain:
        return None
    if pictures > 1:
        raise UserError(
            f"{path} holds {pictures} pictures: save each in a file of its own, or bands as channels of one picture"
        )

    def read() -> np.ndarray:
        try:
            with tifffile.TiffFile(path) as file:
                values = file.pages.first.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            cure = "pip install -e '.[tiff]', or save it without compression"
            raise UserError(f"{path} needs imagecodecs, which is not installed: {cure}") from error
        # A plane for each band, or for each pixel its bands.
        return np.moveaxis(values, 0, 2) if values.ndim == 3 and values.shape != shape else values.reshape(shape)

    return BandFile("TIFF", shape, dtype, orientation, read)
