"""Errors at the boundaries of the truth against errors in its interiors."""

import cv2
import numpy as np
from numpy.typing import NDArray

from segframe import IGNORE_INDEX


class BoundaryErrors:
    """Pixels and wrong pixels per class of the truth, near a boundary and in the interior.

    Near is a pixel with one of another label, void included, at most `width` pixels away across, down, or both.
    `pixels` and `wrong`: int64 (2, C), the first row near boundaries; void pixels are not counted.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        self.width = width
        self.pixels = np.zeros((2, num_classes), np.int64)
        self.wrong = np.zeros((2, num_classes), np.int64)

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Add the classes of an image (H, W)."""
        near = near_boundaries(truth, self.width)
        wrong = prediction != truth
        for row, place in enumerate((near, ~near)):
            self.pixels[row] += self._count(truth[place])
            self.wrong[row] += self._count(truth[place & wrong])

    def _count(self, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=IGNORE_INDEX + 1)[: self.pixels.shape[1]]


def near_boundaries(truth: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Return where another label lies within the square of 2 * width + 1 pixels around a pixel of a mask (H, W)."""
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    near: NDArray[np.bool_] = cv2.dilate(truth, square) != cv2.erode(truth, square)
    return near
