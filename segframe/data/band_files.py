"""Reading of files that Pillow cannot read, or not whole: NumPy arrays, TIFFs of several bands or of 16 bits."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segframe.errors import UserError

TIFF_BYTES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF files."""
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
    with path.open("rb") as file:
        begins = file.read(4)
    return _open_tiff(path) if begins in TIFF_BYTES else None


def _open_array(path: Path) -> BandFile:
    values = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, because a header may claim any size
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size:
        raise UserError(f"{path} holds an array of shape {values.shape}: save it as (H, W) or (H, W, channels)")
    dtype = values.dtype.newbyteorder("=")
    return BandFile("NPY", values.shape, dtype, 1, lambda: np.array(values, dtype))


def mask_type(path: Path) -> np.dtype | None:
    """Return the type of a TIFF's values, which Pillow may not have (int64); None for all other files."""
    import tifffile

    logging.getLogger("tifffile").disabled = True
    try:
        with tifffile.TiffFile(path) as file:
            return file.pages.first.dtype
    except Exception:  # of many types
        return None


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
            # In files of ImageJ and OME the axes name pages that are channels.
            paged = len(file.series) == 1 and file.series[0].axes == "CYX"
            shape = (*shape[:2], file.series[0].shape[0]) if paged else shape
            planar = paged or page.axes.startswith("S")
    except Exception:  # of many types; Pillow reads the file, or says what is wrong
        return None
    # Pillow would divide colours by an alpha channel of kind 1; that of kind 2 stands beside them.
    plain = (kind == "MINISBLACK" and bands == 1 and not paged) or (kind, bands) == ("RGB", 3) or alpha == (2,)
    if pictures > 1 and not paged:
        raise UserError(
            f"{path} holds {pictures} pictures: save each in a file of its own, or if they are bands, "
            f"as channels of one picture, for data.channels={pictures}"
        )
    kinds = ("MINISBLACK", "RGB") if bits == 8 else ("MINISBLACK", "RGB", "MINISWHITE")
    if dtype is None or bits < 8 or kind not in kinds or (dtype == np.uint8 and plain):
        return None
    if kind == "MINISWHITE":
        raise UserError(f"{path} stores white as 0 in {bits} bits: save it with black as 0")

    def read() -> np.ndarray:
        try:
            with tifffile.TiffFile(path) as file:
                values = (file.series[0] if paged else file.pages.first).asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            cure = "pip install 'segframe[tiff]', or save it without compression"
            raise UserError(f"{path} needs imagecodecs, which is not installed: {cure}") from error
        return np.moveaxis(values, 0, 2) if planar else values.reshape(shape)

    return BandFile("TIFF", shape, dtype, orientation, read)
