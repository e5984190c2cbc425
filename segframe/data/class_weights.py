"""Class weights for imbalanced data: median frequency balancing (Eigen & Fergus, 2015; SegNet, 2017)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segframe.data.base import SegmentationDataset


def class_weights(dataset: SegmentationDataset) -> list[float]:
    """Return median(freq) / freq(c) per class; reads every mask, no image.

    freq(c) is the share of c in the pixels, void included, of those images that show c. A class that never occurs
    weighs 1 and is left out of the median.
    """
    num_classes = len(dataset.classes)
    pixels, area = np.zeros(num_classes), np.zeros(num_classes)

    def count(index: int) -> tuple[np.ndarray, int]:
        mask = dataset.read_mask(index)
        return np.bincount(mask.ravel(), minlength=num_classes)[:num_classes], mask.size

    with ThreadPoolExecutor() as pool:
        for counts, size in pool.map(count, range(len(dataset))):
            pixels += counts
            area += (counts > 0) * size
    seen = area > 0
    frequency = pixels[seen] / area[seen]
    weights = np.ones(num_classes)
    weights[seen] = np.median(frequency) / frequency
    return weights.tolist()
