"""Bootstrap over images: how far the metrics of a split would vary with another draw of its images."""

import numpy as np
from numpy.typing import NDArray

from segframe.inference.image_counts import MEANS, ImageCounts
from segframe.inference.metrics import mean_of_known

Samples = NDArray[np.float64]
Interval = tuple[float, float]
FEW_IMAGES = 20
"""With fewer images than this, intervals are too narrow to rely on."""
BATCH = 250
"""Resamples that are drawn at once: 1,000 draws of 10,000 images would need 80 MB."""


def resample(counts: ImageCounts, classes: tuple[str, ...], resamples: int) -> dict[str, Samples]:
    """Return `resamples` bootstrap samples of each metric, each over N draws with replacement from the N images.

    The seed is fixed, so that networks evaluated on the same images get the same draws (a paired bootstrap). Means over
    classes are over the same classes in every draw: one that no drawn image shows enters with its value over all
    images, since means over the others alone would differ by more than the images do.
    """
    overall = counts.sums(np.ones((1, len(counts.truth)))).metrics(classes)
    generator = np.random.default_rng(0)
    images = len(counts.truth)
    found = []
    for first in range(0, resamples, BATCH):
        number = min(BATCH, resamples - first)
        draws = generator.multinomial(images, np.full(images, 1 / images), number).astype(np.float64)
        metrics = counts.sums(draws).metrics(classes)
        for mean, name in MEANS.items():
            drawn, usual = (np.stack([part[f"{name}/{c}"] for c in classes], 1) for part in (metrics, overall))
            metrics[mean] = mean_of_known(np.where(np.isnan(drawn), usual, drawn))
        found.append(metrics)
    return {name: np.concatenate([metrics[name] for metrics in found]) for name in found[0]}


def interval(samples: Samples) -> Interval:
    """Return the 95 % percentile interval; NaN for a metric that no draw has.

    Draws without any pixel of a class (NaN) are left out.
    """
    known = samples[~np.isnan(samples)]
    low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (np.nan, np.nan)
    return low, high


def intervals(counts: ImageCounts, classes: tuple[str, ...], resamples: int = 1000) -> dict[str, Interval]:
    return {name: interval(samples) for name, samples in resample(counts, classes, resamples).items()}
