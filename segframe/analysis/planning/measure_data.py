"""Facts of a data set, from one pass over its training images by worker processes."""

import sys
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import track

from segframe import IGNORE_INDEX
from segframe.analysis.planning.facts import WINDOW_SHARES, ClassFacts, DataFacts, Size
from segframe.config.run_schema import DataConfig
from segframe.data.base import SegmentationDataset
from segframe.data.image_io import read_header
from segframe.data.inspection.facts import channel_moments, mean_and_std
from segframe.data.loader import Loader, loader_settings

GRID = 32
"""Images are divided into GRID x GRID cells; windows consist of whole cells."""
MOST_PIXELS = 1_000_000
"""Maximum pixels of a mask in which objects are measured; of larger ones every n-th row and column is used."""
MOST_READ = 4_000_000_000
"""Maximum number of pixels read in total, about a minute on two cores."""


class SampleFacts(NamedTuple):
    """Properties of an image and its mask."""

    size: Size
    counts: np.ndarray
    """Pixels of each value of the mask, int64 (256,)."""
    objects: np.ndarray
    """Class, area and width in pixels of each connected component, float64 (n, 3), see find_objects."""
    in_window: np.ndarray
    """Share of the windows that show a class, float64 (len(WINDOW_SHARES), 255)."""
    moments: np.ndarray
    """Mean and mean square of each channel in units of 0 ... 255, float64 (2, C)."""


def examine_sample(dataset: SegmentationDataset, index: int) -> SampleFacts:
    """Read an image and its mask once; UserError if a file is invalid."""
    image, mask = dataset.read(index)
    step = int(np.ceil(np.sqrt(mask.size / MOST_PIXELS)))
    return SampleFacts(
        (mask.shape[0], mask.shape[1]),
        cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64),
        find_objects(mask[::step, ::step], step),
        window_shares(mask[::step, ::step]),
        channel_moments(image, dataset.pixels),
    )


def find_objects(mask: np.ndarray, step: int = 1) -> np.ndarray:
    """Return class, area and width of each connected component of a mask uint8 (H, W), float64 (n, 3).

    The width is the area over the length, which is estimated from the bounding box and the share of it that is filled.
    For nets and rings that is too much: where it exceeds twice the width that follows from the pixels' mean distance to
    the outline, the latter is returned. `step`: pixels between those of the mask.
    """
    found = [np.empty((0, 3))]
    for k in np.unique(mask[mask != IGNORE_INDEX]).tolist():
        binary = np.pad((mask == k).astype(np.uint8), 1)
        number, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA].astype(np.float64)
        sides = np.sort(stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]], axis=1)
        # A thin diagonal fills little of a square, and is as long as the square's diagonal.
        bars = areas / (sides[:, 1] + (np.sqrt(2) - 1) * sides[:, 0] * (1 - areas / sides.prod(axis=1)))
        distances = cv2.distanceTransform(binary, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        twice = 2 * np.bincount(labels.ravel(), distances.ravel(), number)[1:] / areas - 1
        # For odd w the mean of 1, 2, ..., (w + 1) / 2, ..., 2, 1 is (w + 1)**2 / 4w.
        strips = twice + np.sqrt(np.maximum(twice**2 - 1, 0))
        widths = np.where(2 * strips < bars, strips, bars)
        found.append(np.stack([np.full_like(areas, k), areas * step**2, widths * step], axis=1))
    return np.concatenate(found)


def window_shares(mask: np.ndarray) -> np.ndarray:
    """Return the share of the windows of an image that show each class, float64 (len(WINDOW_SHARES), 255)."""
    height, width = mask.shape
    rows, columns = (np.arange(n) * GRID // n for n in (height, width))
    cells = (rows[:, None] * GRID + columns).astype(np.int32) * 256 + mask
    present = np.bincount(cells.ravel(), minlength=GRID * GRID * 256).reshape(GRID, GRID, 256)[..., :IGNORE_INDEX] > 0
    sums = np.pad(present.astype(np.int32), ((1, 0), (1, 0), (0, 0))).cumsum(0).cumsum(1)
    shares = []
    for share in WINDOW_SHARES:
        n = max(1, round(share * GRID))
        inside = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]
        weights = np.ones(len(inside))
        weights[[0, -1]] = 0.5  # the trapezoidal rule over all positions between the first and the last
        weights /= weights.sum()
        shares.append(np.einsum("i,j,ijk->k", weights, weights, inside > 0))
    return np.stack(shares)


def measure_data(train: SegmentationDataset, val: SegmentationDataset, data: DataConfig, most_images: int) -> DataFacts:
    """Read the training images, or `most_images` of them at even distances, and the sizes of the validation images."""
    indices = spread(len(train), min(most_images, max(20, MOST_READ // int(np.prod(read_size(train, 0))))))
    settings = loader_settings(data.num_workers, pin_memory=False)
    settings |= {"collate_fn": partial(examine_sample, train), "batch_size": None}  # it runs in the workers
    loader: Iterable[SampleFacts] = Loader(indices, **settings)  # type: ignore[arg-type]
    bar = track(loader, "reading", total=len(indices), disable=not sys.stderr.isatty())
    samples = list(bar)
    sizes = [sample.size for sample in samples]
    val_sizes = [read_size(val, index) for index in spread(len(val), most_images)]
    counts = np.sum([sample.counts for sample in samples], axis=0)
    mean, std = mean_and_std([h * w for h, w in sizes], [sample.moments for sample in samples])
    areas = [float(np.mean([h * w for h, w in found])) for found in (sizes, val_sizes)]
    return DataFacts(
        train_images=len(train),
        val_images=len(val),
        examined=len(samples),
        classes=tuple(class_facts(name, k, samples, counts) for k, name in enumerate(train.classes)),
        void=float(counts[IGNORE_INDEX] / counts.sum()),
        size=median(sizes),
        smallest=min(sizes, key=np.prod),
        largest=max(sizes, key=np.prod),
        val_size=median(val_sizes),
        val_largest=max(val_sizes, key=np.prod),
        channels=train.pixels.channels,
        max_value=train.pixels.max_value,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        decoded_bytes=round((1 + train.pixels.pixel_bytes) * (areas[0] * len(train) + areas[1] * len(val))),
        has_files=train.reads_files,
        weights=data.weights,
    )


def class_facts(name: str, k: int, samples: list[SampleFacts], counts: np.ndarray) -> ClassFacts:
    """Return the facts of class `k`; `counts`: pixels of each value in all masks."""
    objects = np.concatenate([sample.objects[sample.objects[:, 0] == k] for sample in samples])
    return ClassFacts(
        name,
        share=float(counts[k] / max(1, counts[:IGNORE_INDEX].sum())),
        images=float(np.mean([sample.counts[k] > 0 for sample in samples])),
        width=weighted_quantile(objects[:, 2], objects[:, 1], 0.25),
        in_window=tuple(np.mean([sample.in_window[:, k] for sample in samples], axis=0).tolist()),
    )


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the smallest value up to which lies a share of the weights; 0 without values."""
    if not len(values):
        return 0.0
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, share * below[-1])])


def spread(number: int, most: int) -> list[int]:
    """Return the indices 0 ... number - 1, or `most` of them at even distances."""
    count = min(number, most)
    return [k * number // count for k in range(count)]


def read_size(dataset: SegmentationDataset, index: int) -> Size:
    """Return height and width of an image; of a file only the header is read."""
    if not dataset.reads_files:
        height, width = dataset.read(index)[1].shape
        return height, width
    return read_header(dataset.samples[index].image).upright_size


def median(sizes: list[Size]) -> Size:
    height, width = np.median(sizes, axis=0).round().astype(int).tolist()
    return height, width
