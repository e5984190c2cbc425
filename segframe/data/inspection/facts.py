"""What one image and its mask hold: every file is decoded and hashed once."""

from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from segframe.data.base import SegmentationDataset
from segframe.data.image_io import COLOURS, Header, read_header, read_image
from segframe.errors import UserError

HASH_SIDE = 16
"""A fingerprint's rows, and bits per row."""
MOST_VALUES = 256
"""So many of a mask's values are kept, those of the most pixels: a photograph has a hundred thousand colours."""

T = TypeVar("T")


class ImageFacts(NamedTuple):
    """What an image file holds."""

    digest: bytes
    """SHA-1 of the file, or of the pixels that were generated."""
    header: Header
    size: tuple[int, int]
    """Height and width, upright."""
    fingerprint: np.ndarray
    """Bits, uint8 (32,): which cells of 16 rows and 17 columns are brighter than the one to their left."""
    is_blank: bool
    """Whether it has one colour all over."""


class MaskFacts(NamedTuple):
    """What a mask file holds."""

    digest: bytes
    header: Header
    size: tuple[int, int]
    values: np.ndarray
    """Its different raw values, uint8, uint16 or colours, in their order."""
    counts: np.ndarray
    """Their pixels, int64."""


class Facts(NamedTuple):
    """A sample as it was found; instead of what cannot be read, a sentence."""

    image_path: str
    mask_path: str
    image: ImageFacts | str
    mask: MaskFacts | str


def examine(dataset: SegmentationDataset, index: int) -> Facts:
    """Return what a sample's files hold; nothing that is wrong with them is raised."""
    name, image_path, mask_path = dataset.samples[index]
    if image_path == Path():  # generated
        image, mask = dataset.read(index)
        header = Header("", "RGB", image.shape[0], image.shape[1], 1)
        return Facts(name, name, _of_image(image, image.data, header), _of_mask(mask, mask.data, header))
    return Facts(
        str(image_path),
        str(mask_path),
        _told(lambda: _of_image(read_image(image_path), image_path.read_bytes(), read_header(image_path))),
        _told(lambda: _of_mask(_load_mask(dataset, mask_path), mask_path.read_bytes(), _header_of_mask(mask_path))),
    )


def _load_mask(dataset: SegmentationDataset, path: Path) -> np.ndarray:
    raw = dataset.load_mask(path)
    if raw.dtype == COLOURS:
        _ = dataset.labels.colours  # raises where the palette is of no use
    return raw


def _told(read: Callable[[], T]) -> T | str:
    try:
        return read()
    except (UserError, OSError, MemoryError) as error:
        return str(error) or "there is not enough memory for it"


def _header_of_mask(path: Path) -> Header:
    try:
        return read_header(path)
    except UserError:  # no picture, as SBD's MATLAB files, and yet it has been read
        return Header(path.suffix, "L", 0, 0, 1)


def _of_image(image: np.ndarray, content: bytes | memoryview, header: Header) -> ImageFacts:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    brighter = np.packbits(small[:, 1:] > small[:, :-1])
    is_blank = bool(np.ptp(small) == 0 and (image == image[0, 0]).all())
    return ImageFacts(sha1(content).digest(), header, image.shape[:2], brighter, is_blank)


def _of_mask(raw: np.ndarray, content: bytes | memoryview, header: Header) -> MaskFacts:
    values, counts = count_values(raw)
    if len(values) > MOST_VALUES:
        kept = np.sort(np.argsort(counts)[-MOST_VALUES:])
        values, counts = values[kept], counts[kept]
    return MaskFacts(sha1(content).digest(), header, raw.shape, values, counts)


def count_values(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different values of a mask, sorted, and their pixels: of its runs along the rows, which are few."""
    flat = raw.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    values, which = np.unique(flat[starts], return_inverse=True)
    return values, np.bincount(which, weights=lengths).astype(np.int64)
