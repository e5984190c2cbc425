"""Properties of one image and its mask; every file is decoded and hashed once."""

from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import Problem, Sample, collect_problems
from segframe.data.image_io import COLOURS, Header, has_alpha, read_header
from segframe.data.label_map import LabelTable
from segframe.data.pixel_format import PixelFormat
from segframe.errors import UserError

SMALL_SIDE = 16
"""Height and width, in pixels, to which check_data resizes images to find near-duplicates."""
MAX_VALUES = 256
"""Number of values of a mask that are kept, the most frequent ones: photographs have up to 100,000 colours."""

T = TypeVar("T")


class ImageFacts(NamedTuple):
    """Properties of an image file."""

    digest: bytes
    """SHA-1 of the file, or of generated pixels."""
    header: Header
    size: tuple[int, int]
    """Height and width, after rotation by EXIF."""
    small: np.ndarray
    """The image in grey, resized to (SMALL_SIDE, SMALL_SIDE)."""
    is_blank: bool
    """Whether all pixels have the same colour."""
    moments: np.ndarray
    """Mean and mean square of each channel in units of 0 ... 255, float64 (2, C)."""


class MaskFacts(NamedTuple):
    """Properties of a mask."""

    digest: bytes
    """SHA-1 of the raw values."""
    header: Header
    size: tuple[int, int]
    values: np.ndarray
    """Unique raw values, uint8, uint16 or colours, sorted; of more than MAX_VALUES the most frequent ones."""
    counts: np.ndarray
    """Pixels of each value, int64."""
    class_counts: np.ndarray
    """Number of pixels per class, int64 (256,), over all values; index 255 is void, index NO_CLASS invalid values."""
    has_alpha: bool = False
    """Whether it has an alpha channel that is not constant."""


class Facts(NamedTuple):
    """Properties of a sample; an error message replaces those of a file that cannot be read."""

    image_path: str
    mask_path: str
    image: ImageFacts | str
    mask: MaskFacts | str
    problems: tuple[Problem, ...] = ()
    """Problems that reading the mask reports, as with annotations."""


def examine(dataset: SegmentationDataset, index: int) -> Facts:
    """Return the properties of a sample's files; errors are returned as messages."""
    sample = dataset.samples[index]
    image_path = sample.image
    if not dataset.reads_files:
        name = str(image_path) if image_path.name else sample.name
        both = _or_message(lambda: _examine_pair(dataset, index))
        return Facts(name, name, *((both, both) if isinstance(both, str) else both))
    facts = _or_message(lambda: _read_and_examine(dataset, image_path))
    with collect_problems() as problems:
        mask_facts = _or_message(lambda: _read_and_examine_mask(dataset, sample))
    return Facts(str(image_path), dataset.describe_mask(sample), facts, mask_facts, tuple(problems))


def _examine_pair(dataset: SegmentationDataset, index: int) -> tuple[ImageFacts, MaskFacts]:
    image, mask = dataset.read(index)
    dataset.check_pixels(image, index)
    height, width, bands = image.shape
    header = Header("", f"{bands} bands of {image.dtype}", height, width, 1)
    found = _examine_image(image, dataset.pixels, np.ascontiguousarray(image).data, header)
    return found, _examine_mask(mask, header, dataset.labels)


def _read_and_examine(dataset: SegmentationDataset, path: Path) -> ImageFacts:
    return _examine_image(dataset.load_image(path), dataset.pixels, path.read_bytes(), read_header(path))


def _read_and_examine_mask(dataset: SegmentationDataset, sample: Sample) -> MaskFacts:
    raw, header = dataset.raw_mask(sample), _read_mask_header(sample.mask)
    if raw.dtype == COLOURS:
        _ = dataset.labels.colours  # raises if two classes have the same colour
    return _examine_mask(raw, header, dataset.labels)._replace(has_alpha=has_alpha(sample.mask, header))


def _or_message(read: Callable[[], T]) -> T | str:
    try:
        return read()
    except (UserError, OSError, MemoryError) as error:
        return str(error) or "not enough memory"


def _read_mask_header(path: Path) -> Header:
    try:
        return read_header(path)
    except UserError:  # no image file, such as a MATLAB file of SBD, or annotations
        return Header(path.suffix, "L", 0, 0, 1)


def _examine_image(image: np.ndarray, pixels: PixelFormat, content: bytes | memoryview, header: Header) -> ImageFacts:
    grey = cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2GRAY) if image.shape[2] > 2 else image[..., 0]
    small = cv2.resize(grey, (SMALL_SIDE, SMALL_SIDE), interpolation=cv2.INTER_AREA)
    is_blank = bool(np.ptp(small) == 0 and (image == image[0, 0]).all())
    moments = channel_moments(image, pixels)
    return ImageFacts(sha1(content).digest(), header, image.shape[:2], small, is_blank, moments)


def channel_moments(image: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Return mean and mean square of each channel of an image (H, W, C) in units of 0 ... 255, float64 (2, C)."""
    mean, std = (255 / pixels.max_value * values[:, 0] for values in cv2.meanStdDev(image))
    return np.stack([mean, std**2 + mean**2])


def mean_and_std(areas: Sequence[int], moments: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel over all pixels of images; a constant channel's is 1."""
    mean, square = np.average(moments, axis=0, weights=areas)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return mean.round(3), np.where(std < 5e-4, 1, std).round(3)


def _examine_mask(raw: np.ndarray, header: Header, labels: LabelTable) -> MaskFacts:
    values, counts = count_values(raw)
    of_classes = np.bincount(labels.map_values(values), weights=counts, minlength=256).astype(np.int64)
    if len(values) > MAX_VALUES:
        kept = np.sort(np.argsort(counts)[-MAX_VALUES:])
        values, counts = values[kept], counts[kept]
    digest = sha1(np.ascontiguousarray(raw).data).digest()
    return MaskFacts(digest, header, raw.shape, values, counts, of_classes)


def count_values(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return np.unique(raw, return_counts=True), faster for masks: computed from runs of equal values."""
    flat = raw.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    values, which = np.unique(flat[starts], return_inverse=True)
    return values, np.bincount(which, weights=lengths).astype(np.int64)
