"""Metrics against NumPy."""

import numpy as np
import pytest
import torch

from segframe.inference.metrics import ConfusionMatrix, compute_metrics, describe_missing


def numpy_metrics(predictions, masks, num_classes):
    hist = np.zeros((num_classes, num_classes))
    for prediction, mask in zip(predictions, masks, strict=True):
        valid = mask < num_classes
        np.add.at(hist, (mask[valid].astype(int), prediction[valid].astype(int)), 1)
    with np.errstate(invalid="ignore"):
        iou = np.diag(hist) / (hist.sum(0) + hist.sum(1) - np.diag(hist))
        accuracy = np.diag(hist) / hist.sum(1)
    share = hist.sum(1) / hist.sum()
    return np.nanmean(iou), np.diag(hist).sum() / hist.sum(), np.nanmean(accuracy), np.nansum(share * iou), iou


@pytest.mark.parametrize("num_classes", [2, 255])
def test_metrics_agree_with_numpy(num_classes):
    rng = np.random.default_rng(num_classes)
    masks = [rng.integers(0, num_classes, (37, 50)).astype(np.uint8) for _ in range(3)]
    for mask in masks:
        mask[rng.random(mask.shape) < 0.1] = 255
        mask[mask == 1] = 0  # class 1 is never true
    predictions = [np.where(rng.random(m.shape) < 0.6, m % num_classes, 0).astype(np.uint8) for m in masks]
    confusion = ConfusionMatrix(num_classes)
    for prediction, mask in zip(predictions, masks, strict=True):
        confusion.update(torch.from_numpy(prediction)[None], torch.from_numpy(mask)[None])
    names = tuple(f"k{k}" for k in range(num_classes))
    found = compute_metrics(confusion.matrix, names, "val")
    miou, pixel, mean, fwiou, iou = numpy_metrics(predictions, masks, num_classes)
    assert confusion.matrix.sum() == sum((mask < num_classes).sum() for mask in masks)
    keys = ("val/miou", "val/pixel_accuracy", "val/mean_accuracy", "val/fwiou")
    np.testing.assert_allclose([found[key] for key in keys], [miou, pixel, mean, fwiou], rtol=1e-12)
    np.testing.assert_allclose([found[f"val/iou/{name}"] for name in names], iou, rtol=1e-12)


def test_miou_is_that_of_the_dataset_not_a_mean_over_images():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 0, 0]]]))
    confusion.update(torch.tensor([[[1, 1, 1, 1]]]), torch.tensor([[[1, 1, 1, 0]]]))
    assert compute_metrics(confusion.matrix, ("a", "b"), "val")["val/miou"] == pytest.approx((3 / 5 + 3 / 5) / 2)


def test_absent_classes_are_not_counted():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1, 2, 2, dtype=torch.uint8))
    found = compute_metrics(confusion.matrix, ("a", "b", "c"), "val")
    assert found["val/miou"] == 1
    assert np.isnan(found["val/iou/c"])
    confusion.reset()
    assert confusion.matrix.sum() == 0


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        ([[5, 1, 0], [0, 2, 0], [1, 0, 3]], ""),
        ([[5, 0, 0], [0, 2, 0], [0, 0, 0]], "val/miou is a mean over 2 of 3 classes: c never occurs in the truth"),
        (
            [[5, 0, 2], [0, 0, 0], [0, 0, 0]],
            "val/miou is a mean over 2 of 3 classes: b, c never occur in the truth (IoU 0, since predicted: c)",
        ),
        ([[7]], "val/miou is the IoU of one class, a"),
    ],
)
def test_missing_classes_are_named(matrix, sentence):
    assert describe_missing(torch.tensor(matrix), ("a", "b", "c")[: len(matrix)], "val") == sentence
