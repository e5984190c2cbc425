"""Pixel counts of single images, from whose sums all metrics of a split are computed."""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from segframe import IGNORE_INDEX, distributed
from segframe.data.image_batches import device_share
from segframe.files import atomic_write
from segframe.inference.boundary_metrics import Labels, close_void_lines, count_bands, count_contours, in_pixels
from segframe.inference.metrics import ConfusionMatrix, Counts, iou_metrics, mean_of_known, per_class, ratio

CLASS_METRICS = ("iou", "dice", "precision", "recall", "boundary_iou", "boundary_f")
"""The metrics of a class, `<metric>/<class>`."""
OVERALL = {
    "miou": "mIoU",
    "mean_boundary_iou": "boundary IoU",
    "mean_boundary_f": "boundary F",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "fwiou": "frequency-weighted IoU",
    "mean_precision": "mean precision",
    "mean_dice": "mean Dice",
}
"""The metrics over all classes, and their titles."""
MEANS = {"miou": "iou", "mean_accuracy": "recall"} | {
    f"mean_{name}": name for name in ("boundary_iou", "boundary_f", "precision", "dice")
}
"""For each metric of OVERALL that is a mean over classes, the metric in CLASS_METRICS that it averages."""


class ImageCounts(NamedTuple):
    """Pixels per image and class, each (N, C); void is left out.

    A band holds a class's pixels near another class or the image's border; a contour those that touch another class.
    """

    correct: Counts
    """Predicted rightly."""
    truth: Counts
    predicted: Counts
    band_correct: Counts
    """Pixels in both the truth's and the prediction's band of the class."""
    band_truth: Counts
    """Pixels of the class in the mask, within the band along its contour there."""
    band_predicted: Counts
    contour_truth: Counts
    contour_found: Counts
    """Pixels of the true contour within the tolerance of the predicted contour of the class."""
    contour_predicted: Counts
    contour_right: Counts
    """Pixels of the predicted contour within the tolerance of the true contour of the class."""

    def sums(self, draws: NDArray[np.float64]) -> "ImageCounts":
        """Return sums over images (R, C); `draws`: how often each image is counted, (R, N)."""
        return ImageCounts(*(draws @ part for part in self))

    def metrics(self, classes: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
        """Return all metrics of each row, (R,): those of a validation, then Dice, precision, recall and boundaries'.

        Boundary IoU: Cheng et al., 2021, equation 2, of each class. Boundary F: the harmonic mean of the shares of the
        predicted and of the true contour that lie near the other (Csurka et al., 2013, section 3), over all images.
        """
        precision, recall = ratio(self.correct, self.predicted), ratio(self.correct, self.truth)
        dice = ratio(2 * self.correct, self.truth + self.predicted)
        boundary_iou = ratio(self.band_correct, self.band_truth + self.band_predicted - self.band_correct)
        parts = {"dice": dice, "precision": precision, "recall": recall}
        parts |= {"boundary_iou": boundary_iou, "boundary_f": self.boundary_f()}
        means = {f"mean_{name}": mean_of_known(values) for name, values in parts.items() if name != "recall"}
        metrics = iou_metrics(self.correct, self.truth, self.predicted, classes) | means
        for name, values in parts.items():
            metrics |= per_class(name, values, classes)
        return metrics

    def boundary_f(self) -> NDArray[np.float64]:
        """Return boundary F (R, C); NaN for a class without any contour, 0 where only one side has one."""
        precision, recall = (
            np.nan_to_num(ratio(part, whole))
            for part, whole in ((self.contour_right, self.contour_predicted), (self.contour_found, self.contour_truth))
        )
        exists = self.contour_truth + self.contour_predicted > 0
        return np.where(exists, np.nan_to_num(ratio(2 * precision * recall, precision + recall)), np.nan)


class SplitCounts:
    """The confusion matrix of a split's images, and their counts one by one.

    `boundary_distance` of boundary IoU and `boundary_tolerance` of boundary F: below 1 a share of the image's diagonal,
    else pixels.
    """

    def __init__(
        self, classes: tuple[str, ...], boundary_distance: float = 0.02, boundary_tolerance: float = 0.0075
    ) -> None:
        self.classes = classes
        self.distances = (boundary_distance, boundary_tolerance)
        self.matrix = np.zeros((len(classes), len(classes)), np.int64)
        self.names: list[str] = []
        self._rows: list[list[NDArray[np.int64]]] = []

    def update(self, name: str, prediction: Labels, truth: Labels) -> None:
        """Add an image's classes (H, W) against its mask, which holds 0 ... C-1 or 255."""
        num_classes, (height, width) = len(self.classes), truth.shape
        confusion = ConfusionMatrix(num_classes)
        confusion.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        matrix = confusion.matrix.numpy()
        distance, tolerance = (in_pixels(value, (height, width)) for value in self.distances)
        closed_truth, closed = close_void_lines(truth, prediction)
        self.matrix += matrix
        self.names.append(name)
        self._rows.append(
            [
                matrix.diagonal(),
                matrix.sum(1),
                matrix.sum(0),
                *count_bands(closed, closed_truth, truth != IGNORE_INDEX, round(distance), num_classes),
                *count_contours(closed, closed_truth, tolerance, num_classes),
            ]
        )

    @property
    def images(self) -> ImageCounts:
        """The counts of each image."""
        shape = (len(self.names), len(ImageCounts._fields), len(self.classes))
        return ImageCounts(*np.array(self._rows, np.int64).reshape(shape).swapaxes(0, 1))

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return all metrics of the split, their names prefixed by `prefix`/."""
        total = self.images.sums(np.ones((1, len(self.names))))
        return {f"{prefix}/{name}": value.item() for name, value in total.metrics(self.classes).items()}

    def gather(self) -> Self:
        """Collect the counts of all processes, each of which has counted its `device_share`, in the split's order."""
        shares = distributed.gather((self.names, self._rows, self.matrix))
        total = sum(len(names) for names, *_ in shares)
        self.names, self._rows = [""] * total, [[]] * total
        for rank, (names, rows, _) in enumerate(shares):
            for index, name, row in zip(device_share(total, rank), names, rows, strict=True):
                self.names[index], self._rows[index] = name, row
        self.matrix = np.sum([matrix for *_, matrix in shares], axis=0)
        return self

    def write(self, path: Path) -> None:
        """Write names, classes and counts as an .npz file of NumPy."""
        names, classes = np.array(self.names), np.array(self.classes)
        with atomic_write(path) as file:
            np.savez_compressed(file, names=names, classes=classes, **self.images._asdict())
