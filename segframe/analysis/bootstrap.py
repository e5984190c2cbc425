"""Bootstrap over images: how far the metrics of a split would vary with another draw of its images."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
BATCH = 250
"""Resamples that are drawn at once: 1,000 draws of 10,000 images would need 80 MB."""


class ImageCounts(NamedTuple):
    """Pixels per image and class, int64 (N, C): predicted rightly, of the truth, of the prediction."""

    correct: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def of(cls, matrices: list[NDArray[np.int64]]) -> Self:
        """Return the counts of the images' confusion matrices (C, C), whose rows are the truth."""
        return cls(
            np.stack([matrix.diagonal() for matrix in matrices]),
            np.stack([matrix.sum(1) for matrix in matrices]),
            np.stack([matrix.sum(0) for matrix in matrices]),
        )


def metrics_of_counts(
    correct: Samples, truth: Samples, predicted: Samples, classes: tuple[str, ...]
) -> dict[str, Samples]:
    """Return the metrics of inference.metrics, and accuracy/<class>, for each row of counts (R, C), unprefixed."""
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = correct / (truth + predicted - correct), correct / truth
        metrics = {
            "miou": mean_of_known(iou),
            "pixel_accuracy": correct.sum(1) / truth.sum(1),
            "mean_accuracy": mean_of_known(accuracy),
            "fwiou": np.nansum(truth * iou, 1) / truth.sum(1),
        }
    metrics |= {f"iou/{name}": iou[:, k] for k, name in enumerate(classes)}
    return metrics | {f"accuracy/{name}": accuracy[:, k] for k, name in enumerate(classes)}


def mean_of_known(values: Samples) -> Samples:
    """Return the mean of each row (R, C) over the values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(1) / known.sum(1)


def resample(counts: ImageCounts, classes: tuple[str, ...], resamples: int, seed: int = 0) -> dict[str, Samples]:
    """Return bootstrap samples of each metric: `resamples` times, over as many images drawn with replacement.

    The draws depend on the number of images and the seed alone, so that those of two networks on the same images are
    pairs.
    """
    generator = np.random.default_rng(seed)
    images = len(counts.truth)
    sums = []
    for first in range(0, resamples, BATCH):
        number = min(BATCH, resamples - first)
        draws = generator.multinomial(images, np.full(images, 1 / images), number).astype(np.float64)
        sums.append([draws @ part for part in counts])
    correct, truth, predicted = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    return metrics_of_counts(correct, truth, predicted, classes)


def intervals(
    counts: ImageCounts, classes: tuple[str, ...], resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each metric; NaN for a class that occurs in no draw.

    Draws in which a class does not occur say nothing of it and are left out of its interval.
    """
    found = {}
    for name, values in resample(counts, classes, resamples, seed).items():
        known = values[~np.isnan(values)]
        low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (np.nan, np.nan)
        found[name] = (low, high)
    return found
