"""Boundary IoU and boundary F per class, from the classes of all pixels at once."""

from math import hypot

import cv2
import numpy as np
from numpy.typing import NDArray

from segframe import IGNORE_INDEX
from segframe.errors import UserError

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
VOID_LINE = 16
"""Width in pixels up to which void is a line along boundaries, such as VOC draws around every object, not an area."""


def check_distance(setting: str, value: float) -> None:
    """UserError where a distance is neither a share of the diagonal nor a number of pixels."""
    if not 0 < value <= 1000:
        raise UserError(f"{setting}={value}: give a share of the image's diagonal, e.g. 0.02, or pixels, 1 to 1000")


def in_pixels(distance: float, size: tuple[int, int]) -> float:
    """Convert a distance to pixels, at least 1; values below 1 are fractions of the diagonal of an image (H, W)."""
    return distance if distance >= 1 else max(1.0, distance * hypot(*size))


def describe_distance(distance: float) -> str:
    return f"{distance:g} pixels" if distance >= 1 else f"{100 * distance:g} % of the image's diagonal"


def boundary_band(labels: Labels, width: int) -> Mask:
    """Return the pixels (H, W) within `width` pixels of another class's, or of the image's border.

    That is, for every class at once, the mask minus its erosion by a square of 2 * width + 1 pixels, as in Boundary
    IoU's own code, where pixels outside the image count as another class. Void pixels never erode a class.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    highest = cv2.dilate(np.where(labels == IGNORE_INDEX, np.uint8(0), labels), square)
    band: Mask = highest != cv2.erode(labels, square)  # void has the highest number, and never is the lowest one
    for edge in (band[:width], band[-width:], band[:, :width], band[:, -width:]):
        edge[:] = True
    return band


def contours(labels: Labels) -> Mask:
    """Return the pixels (H, W) with one of another class, not of void, above, below, to the left or to the right."""
    found = np.zeros(labels.shape, bool)
    for first, second in (
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        one, other = labels[first], labels[second]
        differ = (one != other) & (one != IGNORE_INDEX) & (other != IGNORE_INDEX)
        found[first] |= differ
        found[second] |= differ
    return found


def count_bands(
    prediction: Labels, truth: Labels, counted: Mask, width: int, num_classes: int
) -> list[NDArray[np.int64]]:
    """Return the pixels per class, (C,) each, of both boundary bands at once, of the truth's, and of the prediction's.

    `prediction` and `truth`: from `close_void_lines`; `counted`: the pixels (H, W) that are not void without it.
    """
    ours, theirs = boundary_band(prediction, width) & counted, boundary_band(truth, width) & counted
    both = ours & theirs & (prediction == truth)
    return [count(labels, num_classes) for labels in (truth[both], truth[theirs], prediction[ours])]


def count_contours(prediction: Labels, truth: Labels, tolerance: float, num_classes: int) -> list[NDArray[np.int64]]:
    """Return the pixels per class, (C,) each: of the truth's contours, those of them within `tolerance` pixels of the
    prediction's contour of the class, of the prediction's contours, those of them near the truth's.

    `prediction` and `truth`: from `close_void_lines`.
    """
    margin = int(tolerance)
    edges = [
        np.pad(np.where(contours(labels), labels, np.uint8(IGNORE_INDEX)), margin, constant_values=IGNORE_INDEX)
        for labels in (truth, prediction)
    ]
    steps = [row * edges[0].shape[1] + column for row, column in disk(tolerance)]
    counts = []
    for edge, other in (edges, edges[::-1]):
        places = np.flatnonzero(edge != IGNORE_INDEX)
        labels, flat = edge.ravel()[places], other.ravel()
        everywhere = count(labels, num_classes)
        for step in steps:  # most pixels find their class after a few, so that the others cost little
            far = flat[places + step] != labels
            places, labels = places[far], labels[far]
        counts += [everywhere, everywhere - count(labels, num_classes)]
    return counts


def close_void_lines(truth: Labels, prediction: Labels) -> tuple[Labels, Labels]:
    """Return truth and prediction (H, W), in which void lines have the class of the nearest pixel that is not void.

    A boundary under a void line is then in its middle. Other void pixels of the truth are void in both.
    """
    prediction = np.where(truth == IGNORE_INDEX, np.uint8(IGNORE_INDEX), prediction)
    void = (truth == IGNORE_INDEX).astype(np.uint8)
    areas = cv2.morphologyEx(void, cv2.MORPH_OPEN, np.ones((VOID_LINE + 1, VOID_LINE + 1), np.uint8))
    lines = np.flatnonzero(void > areas)
    if not len(lines):
        return truth, prediction
    _, numbers = cv2.distanceTransformWithLabels(void, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    numbers, known = numbers.ravel(), np.flatnonzero(void == 0)  # each known pixel has a number of its own
    numbered = np.zeros(numbers.max() + 1, np.int64)
    numbered[numbers[known]] = known
    sources = numbered[numbers[lines]]
    truth, prediction = truth.copy(), prediction.copy()
    for labels in (truth, prediction):
        labels.ravel()[lines] = labels.ravel()[sources]
    return truth, prediction


def disk(radius: float) -> list[tuple[int, int]]:
    """Return the steps (rows, columns) of at most `radius` pixels, the shortest first."""
    side = range(-int(radius), int(radius) + 1)
    steps = [(row, column) for row in side for column in side if hypot(row, column) <= radius]
    return sorted(steps, key=lambda step: hypot(*step))


def count(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return the number of pixels of each class, int64 (C,); void pixels are not counted."""
    return np.bincount(labels, minlength=IGNORE_INDEX + 1)[:num_classes]
