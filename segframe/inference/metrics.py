"""Metrics of semantic segmentation, computed from one confusion matrix of a whole dataset."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segframe.errors import first_names
from segframe.models.ops.pixelwise import count_pairs

Counts = NDArray[Any]
"""Numbers of pixels, int64, or float64 where they are sums of a bootstrap."""


class ConfusionMatrix:
    """Pixel counts `matrix`, int64 (C, C): rows are the truth, columns the prediction; void pixels are left out.

    Not an nn.Module: EMA callbacks swap a module's buffers for averages, and DDP broadcasts them.
    """

    def __init__(self, num_classes: int) -> None:
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def to(self, device: torch.device) -> Self:
        """Move the counts to `device`, where `update` then expects its arguments."""
        self.matrix = self.matrix.to(device)
        return self

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add classes (N, H, W) against masks (N, H, W); masks hold 0 ... C-1 or 255."""
        count_pairs(prediction, truth, self.matrix)

    def reset(self) -> None:
        """Set all counts to 0."""
        self.matrix = torch.zeros_like(self.matrix)


def compute_metrics(matrix: Tensor, classes: tuple[str, ...], prefix: str) -> dict[str, float]:
    """Return mIoU, accuracies and IoU per class (0 ... 1) of a confusion matrix, their names prefixed by `prefix`/.

    A class that occurs neither in truth nor in prediction is NaN and not counted in the mean.
    """
    counts = matrix.cpu().numpy()
    sums = (counts.diagonal()[None], counts.sum(1)[None], counts.sum(0)[None])
    return {f"{prefix}/{name}": value.item() for name, value in iou_metrics(*sums, classes).items()}


def iou_metrics(
    correct: Counts, truth: Counts, predicted: Counts, classes: tuple[str, ...]
) -> dict[str, NDArray[np.float64]]:
    """Return mIoU, accuracies and IoU per class, each (R,), of R rows of counts (R, C).

    Frequency-weighted IoU and the two accuracies are those of Long et al., 2015, section 5.
    """
    iou, total = ratio(correct, truth + predicted - correct), truth.sum(1)
    metrics = {
        "miou": mean_of_known(iou),
        "pixel_accuracy": ratio(correct.sum(1), total),
        "mean_accuracy": mean_of_known(ratio(correct, truth)),
        "fwiou": ratio(np.nansum(truth * iou, 1), total),
    }
    return metrics | per_class("iou", iou, classes)


def ratio(part: Counts, whole: Counts) -> NDArray[np.float64]:
    """Return part / whole; NaN for 0 / 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = part / whole
    return found


def mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row (R, C) over the values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(1), known.sum(1))


def per_class(name: str, values: NDArray[np.float64], classes: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Return the columns of values (R, C) as `name`/<class>."""
    return {f"{name}/{label}": values[:, k] for k, label in enumerate(classes)}


def describe_missing(matrix: Tensor | Counts, classes: tuple[str, ...], prefix: str) -> str:
    """Return a sentence about the classes that do not occur in a confusion matrix's truth; empty if all do."""
    truth, predicted = matrix.sum(1).tolist(), matrix.sum(0).tolist()
    absent = [k for k in range(len(classes)) if not truth[k]]
    if not absent:
        return f"{prefix}/miou is the IoU of one class, {classes[0]}" if len(classes) == 1 else ""
    counted = len(classes) - sum(not predicted[k] for k in absent)
    names = first_names([classes[k] for k in absent])
    text = f"{prefix}/miou is a mean over {counted} of {len(classes)} classes: {names} "
    text += "never occurs in the truth" if len(absent) == 1 else "never occur in the truth"
    false = [classes[k] for k in absent if predicted[k]]
    return f"{text} (IoU 0, since predicted: {first_names(false)})" if false else text


def best_mode(metric: str) -> str:
    """Return `min` if the lowest value of `<split>/<metric>` is the best (the loss), else `max`."""
    return "min" if metric.split("/")[1:] == ["loss"] else "max"  # a class may have that name: val/iou/loss
